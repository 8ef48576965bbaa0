"""The batches that a config describes, for training and for evaluation."""

from collections.abc import Callable, Sequence
import functools

import jax
from ml_collections import ConfigDict

from mrl_jax import terminal
from mrl_jax.data.batches import augment
from mrl_jax.data.batches import boxes
from mrl_jax.data.batches import resident
from mrl_jax.data.batches import vectors as vector_batches
from mrl_jax.data.batches.damage import DamageLog
from mrl_jax.data.batches.evaluation import EvaluationBatches
from mrl_jax.data.batches.evaluation import ResizedOnDevices
from mrl_jax.data.batches.resident import ResidentBatches
from mrl_jax.data.batches.stream import Crops
from mrl_jax.data.batches.stream import StreamBatches
from mrl_jax.data.batches.vectors import EvaluationVectors
from mrl_jax.data.batches.vectors import StreamVectors
from mrl_jax.data.sources import eval_sets
from mrl_jax.data.sources.eval_sets import EvalSet
from mrl_jax.data.sources.example import Source
from mrl_jax.data.sources.vectors import Vectors
from mrl_jax.training import memory

# The largest part of a device's memory that `auto` fills with examples: model,
# gradients and activations need the rest.
_SHARE = 0.5


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
  resize = config.flip_eval_resize if flip else config.eval_resize
  on_device = resize and config.resize_on == 'device'
  batches = ResizedOnDevices if on_device else EvaluationBatches
  return batches(
    opened,
    config.eval_batch_size,
    mesh=mesh,
    resize=resize,
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
  config: ConfigDict,
  opened: Source,
  mesh: jax.sharding.Mesh,
  damage: DamageLog,
  kind: str,
  crops: str = 'host',
  make_stream: Callable[..., StreamBatches] = StreamBatches,
) -> tuple[ResidentBatches | StreamBatches, Callable]:
  """The training input, and the `augment` that `make_train_step` takes.

  `kind` is the input that `choose` has chosen, `crops` what `choose_crops` has;
  `make_stream` makes the batches of streamed input.
  """
  if config.embeddings:
    return _vector_batches(config, opened, mesh, kind)
  random_crop = config.augmentation == 'random_resized_crop'
  crop_scale = tuple(config.crop_scale)
  if kind == 'resident':
    size = _resident_size(config)
    load = functools.partial(
      resident.load,
      opened,
      resize=size if config.eval_resize else 0,
      image_size=size,
      damage=damage,
      num_threads=config.num_threads,
    )
    batches = ResidentBatches(
      load, len(opened), config.batch_size, mesh=mesh, seed=config.seed
    )
    damage.share()
    crop = random_crop
  else:
    sizes, layouts = _image_sizes(config), None
    if random_crop and crops == 'device':
      rows = config.batch_size // mesh.shape['data']
      layouts = boxes.random_layouts(opened, sizes.values(), crop_scale, rows)
    batches = make_stream(
      opened,
      config.batch_size,
      mesh=mesh,
      seed=config.seed,
      crops=Crops(
        sizes,
        crop_scale if random_crop else None,
        resize=bool(config.eval_resize),
        layouts=layouts,
      ),
      alone=not crops,
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


def choose(
  config: ConfigDict,
  opened: Source | Vectors,
  mesh: jax.sharding.Mesh,
  begun: str | None = None,
) -> str:
  """Chooses the input of a training: `resident` or `stream`.

  `auto` chooses `resident` if a device's share of the split takes at most half
  of its memory, or, on CPUs, if the split takes at most `resident_gigabytes`.

  Args:
    config: the config.
    opened: the training split.
    mesh: the mesh, whose axis `data` splits resident examples.
    begun: the input that a resumed training was begun with, which `auto` keeps;
      empty if it was begun before that was recorded, None for a new training.

  Raises:
    ValueError: the input is `resident`, and the devices have too little memory.
  """
  count, parts = len(opened), mesh.shape['data']
  side = _resident_size(config)
  size = 4 * opened.width if config.embeddings else 3 * side * side
  share = resident.rows_each(count, mesh) * size
  kind = config.input
  if kind == 'auto':
    small = count * size <= 1e9 * config.resident_gigabytes
    if memory.told(mesh) and begun != '':
      small = share <= _SHARE * memory.each(mesh)
    # Resident images have one size.
    fits = small and not config.late_image_size
    kind = begun or ('resident' if fits else 'stream')
    where = 'kept on the devices'
    if parts > 1:
      where = f'{share / 1e6:,.1f} MB kept on each of {parts} devices'
    terminal.say(
      f'train: {count * size / 1e6:,.1f} MB decoded, '
      + (where if kind == 'resident' else 'streamed')
    )
  if kind == 'resident' and share > (has := memory.each(mesh)):
    raise ValueError(
      f"input 'resident': the split takes {share / 1e9:,.1f} GB on each of "
      f'{parts} devices, which have {has / 1e9:,.1f} GB: take more devices, '
      "smaller images or input 'stream'"
    )
  return kind


def choose_crops(config: ConfigDict, begun: str | None = None) -> str:
  """Chooses what resizes the random crops of streamed images.

  Returns `host`, `device`, or empty for a run that was begun before there was a
  choice: its crops come from other random numbers, and are resized by the host.
  `auto` chooses the host. `begun` is what a resumed training was begun with,
  which `auto` keeps; None for a new training.

  Raises ValueError if a run begun before there was a choice is to go on with
  another than `auto` or `host`.
  """
  if begun == '':
    if config.resize_on == 'device':
      raise ValueError(
        "resize_on 'device': the training was begun before there was a choice, "
        "and goes on with 'host' or 'auto' only"
      )
    return ''
  if config.resize_on != 'auto':
    return config.resize_on
  return begun or 'host'


def _resident_size(config: ConfigDict) -> int:
  """The side of resident images, pixels.

  Random crops are taken inside the step, from images stored as for evaluation:
  shorter side resized, central square.
  """
  random_crop = config.augmentation == 'random_resized_crop'
  return config.eval_image_size if random_crop else config.image_size


def _vector_batches(
  config: ConfigDict, opened: Vectors, mesh: jax.sharding.Mesh, kind: str
) -> tuple[ResidentBatches | StreamVectors, Callable]:
  options = {'mesh': mesh, 'seed': config.seed}
  if kind == 'resident':
    load = functools.partial(vector_batches.load, opened)
    batches = ResidentBatches(load, len(opened), config.batch_size, **options)
  else:
    batches = StreamVectors(opened, config.batch_size, **options)
  return batches, lambda key, batch, step: batches.take(batch, step)
