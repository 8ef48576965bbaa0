"""Compares a config with the one that a model was trained with."""

from collections.abc import Collection, Mapping
import os
from typing import Any

# Fields that say where the dataset is. A model with a record of its dataset is
# compared by that record instead.
DATASET_FIELDS = frozenset(['dataset', 'embeddings', 'labels'])
# Fields that may be chosen for an imported model.
_SIZES = frozenset({'image_size', 'eval_image_size', 'eval_resize'})


def differences(
  recorded: Mapping[str, Any], now: Mapping[str, Any], free: Collection[str]
) -> list[str]:
  """A clause for each field that differs, with both values.

  Fields of `free` may differ. Only what the config of an imported model records
  is compared: the model and how its pixels are prepared.
  """
  names = now.keys() | recorded.keys()
  if is_import(recorded):
    names = recorded.keys() - _SIZES
  found = []
  for name in sorted(names - {*free}):
    there, here = recorded.get(name), now.get(name)
    if isinstance(there, Mapping) and isinstance(here, Mapping):
      for inner in differences(there, here, ()):
        found.append(f'{name}.{inner}')
    elif _comparable(name, there) != _comparable(name, here):
      found.append(f'{name} is {there!r} there and {here!r} now')
  return found


def completed(
  recorded: Mapping[str, Any], later: Mapping[str, Any]
) -> dict[str, Any]:
  """The recorded config with the fields that it lacks, at their old values.

  Fields of a part, like `text`, are completed where the config has that part.
  """
  config = dict(recorded)
  for name, value in later.items():
    if not isinstance(value, Mapping):
      config.setdefault(name, value)
    elif isinstance(config.get(name), Mapping):
      config[name] = {**value, **config[name]}
  return config


def without(value: Any, old: Any) -> Any:
  """A field's value without the later fields of this part at old values."""
  if not isinstance(value, Mapping) or not isinstance(old, Mapping):
    return value
  return {k: x for k, x in value.items() if k not in old or x != old[k]}


def is_import(config: Mapping[str, Any]) -> bool:
  """Whether a config is of an imported model: it names a file, no dataset."""
  return 'init_from' in config and 'dataset' not in config


def _comparable(name: str, value: Any) -> Any:
  """The value; of a dataset's field the absolute path."""
  if name not in DATASET_FIELDS or not value:
    return value
  return os.path.abspath(os.path.expanduser(str(value).removeprefix('folder:')))
