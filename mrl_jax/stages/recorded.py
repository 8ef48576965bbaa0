"""The dataset that a workdir's model was trained on, and the one at hand."""

from collections.abc import Sequence
import functools
import json
import os

from ml_collections import ConfigDict

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
  """What the newest checkpoint was trained on; None if it does not tell."""
  step = workdir.latest_step()
  if not step:
    return None
  # All processes open `Checkpoints` together, and one alone may need this.
  saved = SavedStep(workdir.checkpoints, step)
  with saved.told_apart():
    content = saved.read_dataset()
  where = f'checkpoint {saved.folder}'
  return None if content is None else provenance.parse(content, where)


def warn_if_unknown(config: ConfigDict, workdir: Workdir) -> None:
  """Says what cannot be checked of a model without a record."""
  if workdir.latest_step() and read(workdir) is None:
    terminal.say(
      f'{workdir.path} was trained before classes were recorded: whether '
      f'{name_of(config)} still has the same, in the same order, cannot be '
      'checked'
    )


def open_split(
  config: ConfigDict, split: str, *, num_classes: int = 0, check: bool = True
) -> Source | Vectors:
  """Opens a split as it is.

  `num_classes` is of vectors, which are counted without; `check` is of folders
  (see `open_source`).
  """
  if not config.embeddings:
    opened = open_source(
      config.dataset,
      split,
      config.data_dir,
      as_seen=config.as_seen,
      check=check,
    )
    _check_names(opened.class_names)
    return opened
  return open_vectors(
    config.embeddings,
    split,
    labels=config.labels,
    train_split=config.train_split,
    # A vector's class is its number, whether there is one of it or not.
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
  """Opens a split, with labels that are classes of the workdir's model.

  Raises ValueError, saying which classes came or went, if there are examples
  that the model has no class for.
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
  """Opens both splits, and says what is to be recorded of them.

  The classes are those of the training split. Where `num_classes` has the head
  of the run in `init_from`, they are all of that run's, found by name.

  Raises ValueError if the training has begun with other examples, or with the
  same in another order, as it would not go on to the same result.
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
  if not sharding.agreed(json.dumps(provenance.plain(here))):
    raise ValueError(
      f'the processes find other files in {name_of(config)}: give all of them '
      'the same'
    )
  train, evaluation = (
    _mapped(config, split, opened[split], there or here) for split in splits
  )
  return here, train, evaluation


def class_names(config: ConfigDict, workdir: Workdir) -> tuple[str, ...]:
  """The classes of the workdir's model, or of the dataset if it has no record.

  Raises ValueError if there is neither.
  """
  if there := read(workdir):
    return there.class_names
  opened = open_split(config, config.eval_split)
  return _classes_to_train(config, workdir, opened)


def of_import(config: ConfigDict) -> Provenance:
  """The record of a model that was trained elsewhere on the config's dataset.

  Its classes are the dataset's, in their order; what its splits held is not
  known. Raises ValueError if the dataset is not there, or `num_classes` is
  another.
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
  """Changes with the files of the splits that the stages read.

  Where a split cannot be opened now, those that the model was trained on count:
  a stage that is finished stays so.
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
  if not sharding.agreed(found):
    raise ValueError(
      f'the processes find other files in {name_of(config)}: give all of them '
      'the same'
    )
  return found


def name_of(config: ConfigDict) -> str:
  """The dataset, as the config names it."""
  if config.embeddings:
    return f'embeddings {config.embeddings}'
  return f'dataset {config.dataset}'


def _classes_to_train(
  config: ConfigDict, workdir: Workdir, opened: Source | Vectors
) -> tuple[str, ...]:
  """The classes of a model without a record, or of one that is to be made."""
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
  """Refuses a head of other classes than the dataset's.

  Nobody knows what its other classes are, or which of its classes the dataset's
  are. A model of before classes were recorded goes on.
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
