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
  return [
    f'{name} is {recorded.get(name)!r} there and {now.get(name)!r} now'
    for name in sorted(names - {*free})
    if _comparable(name, recorded.get(name)) != _comparable(name, now.get(name))
  ]


def is_import(config: Mapping[str, Any]) -> bool:
  """Whether a config is of an imported model: it names a file, no dataset."""
  return 'init_from' in config and 'dataset' not in config


def _comparable(name: str, value: Any) -> Any:
  """The value; of a dataset's field the absolute path."""
  if name not in DATASET_FIELDS or not value:
    return value
  return os.path.abspath(os.path.expanduser(str(value).removeprefix('folder:')))
