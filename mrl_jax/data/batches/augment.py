"""Augments images inside the jitted step: uint8 to normalised float32."""

from collections.abc import Sequence

import jax
from jax import numpy as jnp
import numpy as np


def normalize(
  image_NHWC: jax.Array, mean: Sequence[float], std: Sequence[float]
) -> jax.Array:
  """Converts to float32: `(image / 255 - mean) / std` for each channel."""
  mean = 255 * np.array(mean, np.float32).reshape(1, 1, 1, 3)
  std = 255 * np.array(std, np.float32).reshape(1, 1, 1, 3)
  return (image_NHWC.astype(jnp.float32) - mean) / std


def random_flip(key: jax.Array, image_NHWC: jax.Array) -> jax.Array:
  """Mirrors each image left to right with probability 1/2."""
  flip_N = jax.random.bernoulli(key, shape=image_NHWC.shape[:1])
  return jnp.where(
    flip_N[:, None, None, None], image_NHWC[:, :, ::-1], image_NHWC
  )


def random_shift(
  key: jax.Array, image_NHWC: jax.Array, padding: int
) -> jax.Array:
  """Pads with zeros and takes a random crop of the original size."""
  N, H, W, C = image_NHWC.shape
  pad = (padding, padding)
  padded = jnp.pad(image_NHWC, ((0, 0), pad, pad, (0, 0)))
  corner_N2 = jax.random.randint(key, (N, 2), 0, 2 * padding + 1)
  crop = lambda image, corner: jax.lax.dynamic_slice(
    image, (corner[0], corner[1], 0), (H, W, C)
  )
  return jax.vmap(crop)(padded, corner_N2)


def random_resized_crop(
  key: jax.Array,
  image_NHWC: jax.Array,
  size: int,
  scale: tuple[float, float],
  ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> jax.Array:
  """Resizes a random box of each image: float32 [N, size, size, C].

  The box's area, a share of the image's, is uniform in `scale`; its aspect
  ratio is log-uniform in `ratio`. Sides longer than the image's are cut.
  Bilinear with antialiasing; values stay in [0, 255].
  """
  N, H, W, C = image_NHWC.shape
  keys = jax.random.split(key, 3)
  area_N = jax.random.uniform(keys[0], (N,), minval=scale[0], maxval=scale[1])
  aspect_N = jnp.exp(
    jax.random.uniform(
      keys[1], (N,), minval=np.log(ratio[0]), maxval=np.log(ratio[1])
    )
  )
  box_N2 = jnp.sqrt(H * W * area_N)[:, None] * jnp.stack(
    [aspect_N**-0.5, aspect_N**0.5], axis=1
  )
  full_12 = jnp.array([[H, W]], jnp.float32)
  box_N2 = jnp.minimum(box_N2, full_12)
  corner_N2 = jax.random.uniform(keys[2], (N, 2)) * (full_12 - box_N2)

  def resize(image, corner, box):
    zoom = size / box
    return jax.image.scale_and_translate(
      image, (size, size, C), (0, 1), zoom, -corner * zoom, 'linear'
    )

  return jax.vmap(resize)(image_NHWC.astype(jnp.float32), corner_N2, box_N2)


def fetch_boxes(
  page_PB: jax.Array, start_N: jax.Array, stride_N: jax.Array, side: int
) -> jax.Array:
  """Takes boxes out of pages, uint8 [N, side, side, 3].

  The arrays are those of `boxes.Boxes`. What lies beside and below a box is
  whatever follows its rows.
  """
  P = len(page_PB)
  row_NH = start_N[:, None] + stride_N[:, None] * jnp.arange(side)[None]
  cut = lambda page_B, at: jax.lax.dynamic_slice(page_B, (at,), (3 * side,))
  rows = jax.vmap(jax.vmap(cut, (None, 0)))(page_PB, row_NH.reshape(P, -1))
  return rows.reshape(len(start_N), side, side, 3)


def resize_boxes(
  image_NHWC: jax.Array, box_N23: jax.Array, center_N2S: jax.Array
) -> jax.Array:
  """Resizes a box of each image: float32 [N, S, S, C], values in [0, 255].

  Bilinear with antialiasing, as `images.resize.resize_box` on the host, but not
  rounded. The other arrays are those of `boxes.Boxes` and `boxes.centers`.
  """
  _, H, W, _ = image_NHWC.shape
  rows_NSH = _triangles(box_N23[:, 0], center_N2S[:, 0], H)
  columns_NSW = _triangles(box_N23[:, 1], center_N2S[:, 1], W)
  # Accelerators would round the factors, to less than 8 bits in the sum.
  precision = jax.lax.Precision.HIGHEST
  image_NSWC = jnp.einsum(
    'nsh,nhwc->nswc', rows_NSH, image_NHWC.astype(jnp.float32),
    precision=precision,
  )  # fmt: skip
  return jnp.einsum(
    'ntw,nswc->nstc', columns_NSW, image_NSWC, precision=precision
  )


def _triangles(
  box_N3: jax.Array, center_NS: jax.Array, length: int
) -> jax.Array:
  """The weight of each input pixel in each output pixel, [N, S, length]."""
  first_N11, last_N11, count_N11 = (x[:, None, None] for x in box_N3.T)
  radius_N11 = jnp.maximum((last_N11 - first_N11) / center_NS.shape[1], 1)
  pixel_11L = (jnp.arange(length) + 0.5)[None, None]
  away_NSL = jnp.abs(pixel_11L - center_NS[:, :, None])
  weight_NSL = jnp.maximum(1 - away_NSL / radius_N11, 0)
  weight_NSL = jnp.where(pixel_11L < count_N11, weight_NSL, 0)
  return weight_NSL / weight_NSL.sum(-1, keepdims=True)
