"""ImageNet's pixels as the configs normalise them."""

import jax

from mrl_jax.data.batches import augment

# Of each channel, where pixels are in [0, 1].
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def normalize(image_NHWC: jax.Array) -> jax.Array:
  """Normalises uint8 images to float32."""
  return augment.normalize(image_NHWC, mean=MEAN, std=STD)
