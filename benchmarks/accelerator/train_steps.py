"""Training steps of the encoders, compiled, with a state and a batch."""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

from flax import nnx
import jax
from jax import numpy as jnp
import numpy as np
import optax

from benchmarks import head
from benchmarks import imagenet
from benchmarks.accelerator import programs
from benchmarks.accelerator.sizes import Sizes
from mrl_jax import models
from mrl_jax import nesting
from mrl_jax.models import convnext
from mrl_jax.models import resnet
from mrl_jax.models import vit
from mrl_jax.training import optim
from mrl_jax.training import sharding
from mrl_jax.training import state as state_lib
from mrl_jax.training import train_step as train_step_lib

LABEL_SMOOTHING, MOMENTUM, SGD_DECAY, ADAMW_DECAY = 0.1, 0.9, 1e-4, 0.05
# In small: of the same kinds, for a CPU to compile in seconds.
_SMALL = {
  'resnet50': resnet.Variant((1,), (8,)),
  'convnext_tiny': convnext.Variant((1,), (8,)),
  'vit_b16': vit.Variant(16, depth=1, num_heads=2, patch=8),
}


class Step(NamedTuple):
  """What a training step does.

  Attributes:
    head: FF, MRL-E or MRL.
    pixels: side of the images.
    batch: number of images.
    encoder: a name in `models.ENCODERS`.
    blurpool: as in `models.create`.
  """

  head: str
  pixels: int
  batch: int
  encoder: str = 'resnet50'
  blurpool: bool = False

  @property
  def is_adamw(self) -> bool:
    """Whether the optimizer is AdamW, and not SGD as for ResNets."""
    return not self.encoder.startswith('resnet')


def variant(sizes: Sizes, encoder: str) -> Any:
  """The geometry of the encoder, or of a small one of its kind."""
  return _SMALL[encoder] if sizes.tiny else models.ENCODERS[encoder]


def nesting_dims(sizes: Sizes, step: Step) -> tuple[int, ...]:
  width = variant(sizes, step.encoder).num_features
  if step.head == 'FF':
    return (width,)
  # A transformer's are 12 to 768.
  first = 8 if width.bit_count() == 1 else 12
  return nesting.doubling(first, width)


def batch_of(sizes: Sizes, step: Step) -> dict[str, np.ndarray]:
  rng = np.random.default_rng(0)
  shape = (step.batch, step.pixels, step.pixels, 3)
  label_N = rng.integers(0, sizes.classes, step.batch)
  return {
    'image': rng.integers(0, 256, shape, np.uint8),
    'label': label_N.astype(np.int32),
  }


def normalized(key: Any, batch: Any, step: Any) -> tuple[jax.Array, jax.Array]:
  """The `augment` of `make_train_step`, for images that are cropped."""
  del key, step
  image_NHWC = imagenet.normalize(batch['image'])
  return image_NHWC, batch['label']


def classifier(sizes: Sizes, step: Step) -> models.Classifier:
  rngs, dtype = nnx.Rngs(0), jnp.dtype(sizes.dtype)
  geometry = variant(sizes, step.encoder)
  options = {'dtype': dtype, 'rngs': rngs}
  if isinstance(geometry, resnet.Variant):
    encoder = resnet.ResNet(geometry, blurpool=step.blurpool, **options)
  elif isinstance(geometry, convnext.Variant):
    encoder = convnext.ConvNeXt(geometry, **options)
  else:
    encoder = vit.ViT(geometry, image_size=step.pixels, **options)
  return models.Classifier(
    encoder,
    nesting_dims(sizes, step),
    sizes.classes,
    head=head.KINDS[step.head],
    **options,
  )


def optimizer(step: Step) -> optax.GradientTransformation:
  if step.is_adamw:
    return optim.adamw(1e-4, weight_decay=ADAMW_DECAY, mask='no_norm_no_bias')
  return optim.sgd(
    0.01, momentum=MOMENTUM, weight_decay=SGD_DECAY, mask='reference'
  )


class Training:
  """A compiled training step with its state and batch.

  Attributes:
    program: the compiled step.
    graphdef, state: as `state.create` returns them.
    batch: what the step is called with.
  """

  def __init__(
    self,
    sizes: Sizes,
    step: Step,
    *,
    num_devices: int = 1,
    augmented: Callable = normalized,
    batch: Any = None,
  ):
    """Compiles the step for the first devices.

    `augmented` and `batch` are for another input than synthetic images.
    """
    self.mesh = sharding.make_mesh(num_devices)
    update = optimizer(step)
    with programs.on_host():
      self.graphdef, state = state_lib.create(classifier(sizes, step), update)
    everywhere = sharding.replicated(self.mesh)
    self.state = jax.device_put(state, everywhere)
    if batch is None:
      batch = sharding.shard_batch(batch_of(sizes, step), self.mesh)
    self.batch = batch
    function = train_step_lib.make_train_step(
      self.graphdef,
      update,
      augmented,
      seed=0,
      label_smoothing=LABEL_SMOOTHING,
      sharding=everywhere,
    )
    self.program = programs.compile_(sizes, function, self.state, self.batch)

  def run(self, n: int) -> None:
    """Does n steps on the same batch."""
    self.run_on(self.batch for _ in range(n))

  def run_on(self, batches: Any) -> None:
    """Does a step on each batch, and waits for the last."""
    metrics = None
    for batch in batches:
      self.state, metrics = self.program.call(self.state, batch)
    jax.block_until_ready((self.state, metrics))

  def loss(self) -> float:
    """Does a step, and returns its loss; raises ValueError if it is not one."""
    self.state, metrics = self.program.call(self.state, self.batch)
    loss = float(metrics['loss'])
    if not np.isfinite(loss):
      raise ValueError(f'the loss is {loss}')
    return loss


def makers(sizes: Sizes, steps: list[Step]) -> list[Callable[[], Training]]:
  return [functools.partial(Training, sizes, step) for step in steps]
