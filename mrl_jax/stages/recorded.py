"""Opens datasets, and compares them with the record of the training data."""

from collections.abc import Sequence
import functools
import json
import os

from ml_collections import ConfigDict
import msgspec

from mrl_jax import terminal
from mrl_jax.data.sources import provenance
from mrl_jax.data.sources import tfds_builder
from mrl_jax.data.sources.datasets import open_source
from mrl_jax.data.sources.example import Source
from mrl_jax.data.sources.image_tree import FOLDER_PREFIX
from mrl_jax.data.sources.provenance import Provenance
from mrl_jax.data.sources.vectors import open_vectors
from mrl_jax.data.sources.vectors import Vectors
from mrl_jax.data.sources.wrappers import Relabelled
from mrl_jax.stages import init_from
from mrl_jax.training import sharding
from mrl_jax.training.saved_step import SavedStep
from mrl_jax.workdir import Workdir


def read(workdir: Workdir) -> Provenance | None:
  """The newest checkpoint's record of its training data; None without one."""
  step = workdir.latest_step()
  # All processes open `Checkpoints` together, and one alone may need this.
  saved = SavedStep(workdir.checkpoints, step)
  return init_from.read_record(saved) if step else None


def warn_if_unknown(config: ConfigDict, workdir: Workdir) -> None:
  """Prints a line about a model without a record of its classes."""
  if workdir.latest_step() and read(workdir) is None:
    terminal.say(
      f'{workdir.path} was trained before classes were recorded: whether '
      f'{name_of(config)} still has the same, in the same order, cannot be '
      'checked'
    )


def open_split(
  config: ConfigDict, split: str, *, num_classes: int = 0, check: bool = True
) -> Source | Vectors:
  """Opens a split, with the labels of the dataset.

  `num_classes` is for vectors, whose classes are counted without it; `check` is
  for folders (see `open_source`).
  """
  if not config.embeddings:
    where = config.dataset, split, config.data_dir
    opened = open_source(*where, as_seen=config.as_seen, check=check)
    _check_names(opened.class_names)
    return opened
  return open_vectors(
    config.embeddings,
    split,
    labels=config.labels,
    train_split=config.train_split,
    # The label of a vector is a number, and a class may have no examples.
    num_classes=num_classes or config.num_classes,
  )


def _check_names(class_names: Sequence[str]) -> None:
  for name in class_names:
    try:
      name.encode()
    except UnicodeEncodeError:
      raise ValueError(
        f'class {os.fsencode(name)!r}: its name is not UTF-8, which the files '
        'of a run are written in: rename the folder'
      ) from None


def open_mapped(
  config: ConfigDict, split: str, workdir: Workdir
) -> Source | Vectors:
  """Opens a split, with the labels mapped to the classes of the model.

  Raises ValueError, naming the classes that were added or removed, if the model
  has no class for some examples.
  """
  there = read(workdir)
  if there is None:
    opened = open_split(config, split)
    _check_count(config, opened, has_model=bool(workdir.latest_step()))
    return opened
  opened = open_split(config, split, num_classes=len(there.class_names))
  return _mapped(config, split, opened, there)


def open_for_training(
  config: ConfigDict, workdir: Workdir
) -> tuple[Provenance, Source | Vectors, Source | Vectors]:
  """Opens both splits; returns the record of the data, and the splits.

  The classes are those of the training split, or those of the run in
  `init_from` if `num_classes` says that its head is to be used.

  Raises ValueError if the training began with other examples, or with another
  order of them: resumed, it would give another result.
  """
  there = read(workdir)
  splits = (config.train_split, config.eval_split)
  opened = {split: open_split(config, split) for split in splits}
  first = opened[config.train_split]
  if there:
    names = there.class_names
    if fault := provenance.compare_order(there, config.train_split, first):
      raise ValueError(
        f'{name_of(config)} is not what the training in {workdir.path} began '
        f'with: {fault}. Bring that back, or train in another --workdir'
      )
  else:
    names = _classes_to_train(config, workdir, first)
  here = provenance.record(opened, names)
  _check_agreed(config, json.dumps(provenance.plain(here)))
  train, evaluation = (
    _mapped(config, split, opened[split], there or here) for split in splits
  )
  if there:
    here = msgspec.structs.replace(
      here,
      input=there.input,
      batch_norm_group=there.batch_norm_group,
      crops=there.crops,
    )
  return here, train, evaluation


def class_names(config: ConfigDict, workdir: Workdir) -> tuple[str, ...]:
  """The classes of the workdir's model, or of the dataset if it has no record.

  Raises ValueError if there is neither record nor dataset.
  """
  if there := read(workdir):
    return there.class_names
  opened = open_split(config, config.eval_split)
  return _classes_to_train(config, workdir, opened)


def of_import(config: ConfigDict) -> Provenance:
  """The record for an imported model, taken from the config's dataset.

  The content of its splits is unknown. Raises ValueError if the dataset is
  missing, or has another number of classes than `num_classes`.
  """
  if config.dataset.startswith(FOLDER_PREFIX):
    opened = open_split(config, config.train_split, check=False)
    name, version, names = opened.name, opened.version, opened.class_names
  else:
    found = tfds_builder.describe(config.dataset, config.data_dir)
    name, version, names = found
  if config.num_classes not in (0, len(names)):
    raise ValueError(_counted(config, names))
  return Provenance(name, version, names, {})


def digest(config: ConfigDict, workdir: Workdir) -> str:
  """A digest of the files in the splits that the stages read.

  For a split that cannot be opened now the model's record is taken, so that a
  finished stage stays finished.
  """
  there = read(workdir)
  listings = []
  for split in (config.train_split, config.eval_split):
    try:
      listing = open_split(config, split, check=False).listing()
    except (ValueError, OSError):
      listing = there.splits.get(split, {}) if there else {}
    listings.append(provenance.digest(listing))
  found = '-'.join(listings)
  _check_agreed(config, found)
  return found


def _check_agreed(config: ConfigDict, found: str) -> None:
  if not sharding.agreed(found):
    raise ValueError(
      f'the processes find other files in {name_of(config)}: give all of them '
      'the same'
    )


def name_of(config: ConfigDict) -> str:
  """The name of the dataset, for messages."""
  if config.embeddings:
    return f'embeddings {config.embeddings}'
  return f'dataset {config.dataset}'


def _classes_to_train(
  config: ConfigDict, workdir: Workdir, opened: Source | Vectors
) -> tuple[str, ...]:
  """The classes of a new model, or of one without a record."""
  has_model = bool(workdir.latest_step())
  start = None if has_model else init_from.read_provenance(config)
  if start and config.num_classes == len(start.class_names):
    return start.class_names
  _check_count(config, opened, has_model=has_model)
  return opened.class_names


def _mapped(
  config: ConfigDict, split: str, opened: Source | Vectors, there: Provenance
) -> Source | Vectors:
  fault, remark = provenance.compare(there, split, opened)
  if fault:
    raise ValueError(
      f'{name_of(config)} is not what the model was trained on: {fault}. Its '
      'labels would be wrong: bring the classes back under their names'
    )
  if remark:
    _say_once(
      f'split {split} of {name_of(config)} is not as it was for the training: '
      f'{remark}'
    )
  if isinstance(opened, Vectors) or opened.class_names == there.class_names:
    return opened
  return Relabelled(opened, there.class_names)


def _check_count(
  config: ConfigDict, opened: Source | Vectors, *, has_model: bool
) -> None:
  """Refuses a head with another number of classes than the dataset.

  A model with more classes, from before classes were recorded, is accepted.
  """
  if config.num_classes in (0, opened.num_classes):
    return
  line = _counted(config, opened.class_names)
  if has_model and opened.num_classes < config.num_classes:
    _say_once(f'{line}: labels are taken to be the first classes of the model')
    return
  raise ValueError(
    f'{line}: must be 0 or the same, or those of a run in init_from that has '
    'them all'
  )


def _counted(config: ConfigDict, names: Sequence[str]) -> str:
  shown = ', '.join(names[:5]) + (', …' if names[5:] else '')
  return (
    f'num_classes {config.num_classes}: {name_of(config)} has {len(names)} '
    f'({shown})'
  )


@functools.cache
def _say_once(line: str) -> None:
  terminal.say(line)
