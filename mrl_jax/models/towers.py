"""An image encoder and a text encoder that share one nested space."""

from collections.abc import Collection, Sequence
import functools
import math
from typing import Any, Literal

from flax import nnx
import jax
from jax import numpy as jnp
from jax.sharding import PartitionSpec

from mrl_jax import losses
from mrl_jax import nesting
from mrl_jax.models import encoder as encoder_lib
from mrl_jax.models import initializers
from mrl_jax.models import text as text_lib

TOWERS = ('image', 'text')
# CLIP (arXiv 2103.00020, section 2.5) lets the scale grow no further.
_LARGEST_SCALE = 100.0
# What the scale and the bias of each loss begin with in its paper.
_STARTS = {'contrastive': (1 / 0.07, 0.0), 'sigmoid': (10.0, -10.0)}


class Towers(nnx.Module):
  """Images and texts to float32 embeddings [N, D] of one nested space.

  Attributes:
    embedding_dim: the width D.
    nesting_dims: the prefix widths that the loss trains.
    kind: the loss: `contrastive`, CLIP's, or `sigmoid`, SigLIP's.
    frozen: names of the towers that do not train, as in LiT (arXiv 2111.07991).
      Their projections train.
    log_scale: logarithm of the factor of the cosines at each width, [G].
    bias: added to the logits of each width, [G]; `sigmoid` only.
  """

  def __init__(
    self,
    image: encoder_lib.Encoder,
    text: text_lib.TextEncoder,
    nesting_dims: Sequence[int],
    *,
    image_projection: text_lib.Projection | None = None,
    text_projection: text_lib.Projection | None = None,
    kind: Literal['contrastive', 'sigmoid'] = 'contrastive',
    frozen: Collection[str] = (),
    rngs: nnx.Rngs,
  ):
    """Joins two encoders.

    Args:
      image: an encoder of images, see `models.create`.
      text: an encoder of texts.
      nesting_dims: the prefix widths.
      image_projection: the layer behind the image encoder; None: there is none.
      text_projection: the layer behind the text encoder.
      kind: the loss.
      frozen: names of the towers that do not train: `image`, `text`.
      rngs: the `params` stream initialises the projections.

    Raises:
      ValueError: the embeddings have different widths, or an argument is not
        one of those that there are.
    """
    if kind not in _STARTS:
      raise ValueError(f'kind {kind!r}: must be one of {tuple(_STARTS)}')
    if unknown := sorted({*frozen} - {*TOWERS}):
      raise ValueError(f'frozen {unknown[0]!r}: must be of {TOWERS}')
    self.image, self.text = image, text
    self.image_projection = _layer(image, image_projection, rngs)
    self.text_projection = _layer(text, text_projection, rngs)
    widths = [
      projection.width if projection else tower.num_features
      for tower, projection in (
        (image, image_projection),
        (text, text_projection),
      )
    ]
    if widths[0] != widths[1]:
      raise ValueError(
        f'images have embeddings of width {widths[0]} and texts of {widths[1]}:'
        ' must be equal, by image_projection and text_projection'
      )
    self.embedding_dim = widths[0]
    self.nesting_dims = nesting.validate(nesting_dims, widths[0])
    self.kind = kind
    self.frozen = tuple(frozen)
    scale, bias = _STARTS[kind]
    G = len(self.nesting_dims)
    self.log_scale = nnx.Param(jnp.full(G, math.log(scale)))
    if kind == 'sigmoid':
      self.bias = nnx.Param(jnp.full(G, bias))

  def encode_images(
    self, image_NHWC: jax.Array, *, key: jax.Array | None = None
  ) -> jax.Array:
    """Embeddings [N, D] of float images; `key` draws what training skips."""
    return self._encode('image', (image_NHWC,), key)

  def encode_texts(
    self,
    token_NT: jax.Array,
    mask_NT: jax.Array,
    *,
    key: jax.Array | None = None,
  ) -> jax.Array:
    """Embeddings [N, D] of token ids; see `text.TextEncoder` for arguments."""
    return self._encode('text', (token_NT, mask_NT), key)

  def loss(
    self,
    image_NHWC: jax.Array,
    token_NT: jax.Array,
    mask_NT: jax.Array,
    *,
    key: jax.Array | None = None,
    weights_G: Sequence[float] | jax.Array | None = None,
    mesh: jax.sharding.Mesh | None = None,
  ) -> tuple[jax.Array, jax.Array]:
    """The summed loss of pairs of an image and a text, and that of each width.

    Image i pairs with text i. `key` draws what training skips or drops; see
    `pair_loss` for the others.
    """
    keys = (None, None) if key is None else jax.random.split(key)
    return self.pair_loss(
      self.encode_images(image_NHWC, key=keys[0]),
      self.encode_texts(token_NT, mask_NT, key=keys[1]),
      weights_G=weights_G,
      mesh=mesh,
    )

  def pair_loss(
    self,
    image_ND: jax.Array,
    text_ND: jax.Array,
    *,
    weights_G: Sequence[float] | jax.Array | None = None,
    mesh: jax.sharding.Mesh | None = None,
  ) -> tuple[jax.Array, jax.Array]:
    """The same from embeddings.

    Args:
      image_ND: embeddings of images.
      text_ND: embeddings of their texts.
      weights_G: the weights of the widths; None: all ones.
      mesh: the mesh over whose axis `data` the pairs are split; each device
        then computes its share of the loss. None: one device, or what `jit`
        makes of it.
    """
    if weights_G is None or not isinstance(weights_G, jax.Array):
      G = len(self.nesting_dims)
      weights_G = jnp.asarray(nesting.validate_weights(weights_G, G))
    log_scale_G = self.log_scale[...]
    bias_G = self.bias[...] if self.kind == 'sigmoid' else 0 * log_scale_G
    arrays = image_ND, text_ND, log_scale_G, bias_G, weights_G
    function = functools.partial(_loss, self.kind, self.nesting_dims)
    if mesh is None:
      return function(*arrays)
    data, whole = PartitionSpec('data'), PartitionSpec()
    return jax.shard_map(
      functools.partial(function, axis_name='data'),
      mesh=mesh,
      in_specs=(data, data, whole, whole, whole),
      out_specs=(whole, whole),
    )(*arrays)

  def _encode(self, name: str, arrays: tuple, key) -> jax.Array:
    tower, layer = getattr(self, name), getattr(self, f'{name}_projection')
    if name in self.frozen:
      # Neither dropout nor statistics of the batch.
      tower = nnx.with_attributes(
        tower, use_running_average=True, raise_if_not_found=False
      )
      embedding_ND = jax.lax.stop_gradient(tower(*arrays))
    else:
      embedding_ND = tower(*arrays, key=key)
    return embedding_ND if layer is None else layer(embedding_ND)


def _layer(
  tower: nnx.Module, projection: text_lib.Projection | None, rngs: nnx.Rngs
) -> nnx.Linear | None:
  if projection is None:
    return None
  if projection.activation != 'identity':
    raise ValueError(f'activation {projection.activation!r}: must be identity')
  return nnx.Linear(
    tower.num_features,
    projection.width,
    use_bias=projection.use_bias,
    kernel_init=initializers.normal_002,
    rngs=rngs,
  )


def _loss(
  kind, dims, image_ND, text_ND, log_scale_G, bias_G, weights_G, axis_name=None
) -> tuple[jax.Array, jax.Array]:
  options: dict[str, Any] = {'nesting_dims': dims, 'weights_G': weights_G}
  options['axis_name'] = axis_name
  if kind == 'sigmoid':
    return losses.matryoshka_sigmoid(
      image_ND,
      text_ND,
      temperature=jnp.exp(-log_scale_G),
      bias=bias_G,
      **options,
    )
  log_scale_G = jnp.minimum(log_scale_G, math.log(_LARGEST_SCALE))
  return losses.matryoshka_contrastive(
    image_ND, text_ND, temperature=jnp.exp(-log_scale_G), **options
  )
