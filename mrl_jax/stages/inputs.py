"""The batches that a config describes, for training and for evaluation."""

from collections.abc import Callable, Sequence
import functools

import jax
from ml_collections import ConfigDict

from mrl_jax import terminal
from mrl_jax.data.batches import augment
from mrl_jax.data.batches import resident
from mrl_jax.data.batches import vectors as vector_batches
from mrl_jax.data.batches.damage import DamageLog
from mrl_jax.data.batches.evaluation import EvaluationBatches
from mrl_jax.data.batches.resident import ResidentBatches
from mrl_jax.data.batches.stream import Crops
from mrl_jax.data.batches.stream import StreamBatches
from mrl_jax.data.batches.vectors import EvaluationVectors
from mrl_jax.data.batches.vectors import StreamVectors
from mrl_jax.data.sources import eval_sets
from mrl_jax.data.sources.eval_sets import EvalSet
from mrl_jax.data.sources.example import Source
from mrl_jax.data.sources.vectors import Vectors


def normalize(config: ConfigDict) -> Callable[[jax.Array], jax.Array]:
  """Returns the function from uint8 images (or vectors) to model input."""
  if config.embeddings:
    return lambda row_ND: row_ND  # The adaptor normalises them.
  return functools.partial(
    augment.normalize, mean=tuple(config.mean), std=tuple(config.std)
  )


def evaluation_batches(
  config: ConfigDict,
  opened: Source | Vectors,
  mesh: jax.sharding.Mesh,
  damage: DamageLog,
  *,
  flip: bool = False,
) -> EvaluationBatches | EvaluationVectors:
  """Batches for evaluation.

  Images have the `eval_*` sizes, or with `flip` the `flip_eval_*` sizes.
  """
  if config.embeddings:
    return EvaluationVectors(opened, config.eval_batch_size, mesh=mesh)
  return EvaluationBatches(
    opened,
    config.eval_batch_size,
    mesh=mesh,
    resize=config.flip_eval_resize if flip else config.eval_resize,
    size=config.flip_eval_image_size if flip else config.eval_image_size,
    damage=damage,
    num_threads=config.num_threads,
  )


def open_sets(config: ConfigDict, class_names: Sequence[str]) -> list[EvalSet]:
  """Opens the config's `eval_sets` for a model with these classes.

  Raises ValueError, with a reason for each set that cannot be opened.
  """
  opened, faults = [], []
  for entry in config.eval_sets:
    try:
      opened.append(
        eval_sets.open_set(
          entry, class_names, config.data_dir, as_seen=config.as_seen
        )
      )
    except ValueError as error:
      faults.append(str(error))
  if faults:
    raise ValueError('; '.join(faults))
  return opened


def train_batches(
  config: ConfigDict, opened: Source, mesh: jax.sharding.Mesh, damage: DamageLog
) -> tuple[ResidentBatches | StreamBatches, Callable]:
  """The training input, and the `augment` that `make_train_step` takes."""
  if config.embeddings:
    return _vector_batches(config, opened, mesh)
  random_crop = config.augmentation == 'random_resized_crop'
  crop_scale = tuple(config.crop_scale)
  if _is_resident(config, opened):
    # Random crops are taken inside the step, from images stored as for
    # evaluation: shorter side resized, central square.
    size = config.eval_image_size if random_crop else config.image_size
    images_NHWC, label_N = resident.load(
      opened,
      resize=size if config.eval_resize else 0,
      size=size,
      damage=damage,
      num_threads=config.num_threads,
    )
    batches = ResidentBatches(
      images_NHWC, label_N, config.batch_size, mesh=mesh, seed=config.seed
    )
    crop = random_crop
  else:
    batches = StreamBatches(
      opened,
      config.batch_size,
      mesh=mesh,
      seed=config.seed,
      crops=Crops(
        _image_sizes(config),
        crop_scale if random_crop else None,
        resize=bool(config.eval_resize),
      ),
      damage=damage,
      num_threads=config.num_threads,
    )
    crop = False  # The host crops.

  def augment_batch(key, batch, step):
    image_NHWC, label_N = batches.take(batch, step)
    crop_key, flip_key = jax.random.split(key)
    if config.augmentation == 'shift':
      image_NHWC = augment.random_shift(crop_key, image_NHWC, config.shift)
    elif crop:
      image_NHWC = augment.random_resized_crop(
        crop_key, image_NHWC, config.image_size, crop_scale
      )
    if config.flip:
      image_NHWC = augment.random_flip(flip_key, image_NHWC)
    return normalize(config)(image_NHWC), label_N

  return batches, augment_batch


def _image_sizes(config: ConfigDict) -> dict[int, int]:
  """The side of the training images, by the epoch from which it holds."""
  sizes = {0: config.image_size}
  if config.late_image_size:
    sizes[config.late_epoch] = config.late_image_size
  return sizes


def _is_resident(config: ConfigDict, opened: Source | Vectors) -> bool:
  """Whether the training split is kept on the devices."""
  if config.input != 'auto':
    return config.input == 'resident'
  if config.late_image_size:
    return False  # Resident images have one size.
  size = len(opened) * 3 * config.eval_image_size**2
  if config.embeddings:
    size = len(opened) * 4 * opened.width
  fits = size <= 1e9 * config.resident_gigabytes
  terminal.say(
    f'train: {size / 1e6:,.1f} MB decoded, '
    + ('kept on the devices' if fits else 'streamed')
  )
  return fits


def _vector_batches(
  config: ConfigDict, opened: Vectors, mesh: jax.sharding.Mesh
) -> tuple[ResidentBatches | StreamVectors, Callable]:
  options = {'mesh': mesh, 'seed': config.seed}
  if _is_resident(config, opened):
    batches = ResidentBatches(
      *vector_batches.load(opened), config.batch_size, **options
    )
  else:
    batches = StreamVectors(opened, config.batch_size, **options)
  return batches, lambda key, batch, step: batches.take(batch, step)
