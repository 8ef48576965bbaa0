"""Errors of each width by groups of classes (superclasses)."""

from collections.abc import Sequence
import pathlib
from typing import NamedTuple

import numpy as np

from mrl_jax.analysis import per_example
from mrl_jax.analysis.per_example import Outcomes
from mrl_jax.retrieval import inputs
from mrl_jax.workdir import files

REJECT = 'reject'
# The most unknown classes that an error lists.
_LISTED = 20


class Superclasses(NamedTuple):
  """Shares of examples at each width, and for each of S groups of the labels.

  A group without examples has NaN. Group 0 is the reject group: the classes
  that are in no other.

  Attributes:
    accuracy_G: predictions in the label's group, the reject group included.
    accuracy_GS: the same, for each group.
    inside_GS: predictions of a wrong class in the label's group.
    across_GS: predictions of a class in another group.
    within_GS: right predictions where only classes of the label's group count.
  """

  accuracy_G: np.ndarray
  accuracy_GS: np.ndarray
  inside_GS: np.ndarray
  across_GS: np.ndarray
  within_GS: np.ndarray


def load_groups(
  path: pathlib.Path, class_names: Sequence[str]
) -> tuple[np.ndarray, tuple[str, ...]]:
  """Reads the group of each class, int [C], and the groups' names.

  The file is a JSON object from class to group. Classes that are not in it are
  in the reject group, the first. Raises ValueError for unknown classes.
  """
  groups = files.read_json(pathlib.Path(path), dict[str, str])
  if unknown := sorted(groups.keys() - set(class_names)):
    more = f' and {len(unknown) - _LISTED} more' if unknown[_LISTED:] else ''
    raise ValueError(
      f'{path}: unknown classes {", ".join(unknown[:_LISTED])}{more}'
    )
  names = (REJECT, *sorted({*groups.values()} - {REJECT}))
  ids = {name: i for i, name in enumerate(names)}
  chosen = [ids[groups.get(name, REJECT)] for name in class_names]
  return np.array(chosen), names


def group_errors(
  outcomes: Outcomes, label_N: np.ndarray, group_C: np.ndarray, num_groups: int
) -> Superclasses:
  """Measures errors by group, of outcomes that were read with `group_C`.

  Examples of label -1 do not count.
  """
  prediction_GN, _, within_GN = outcomes
  if within_GN is None:
    raise ValueError('outcomes without groups: read them with group_C')
  label_N = per_example.check_labels(
    label_N, prediction_GN.shape[1], len(group_C)
  )
  counted_N = label_N != inputs.IGNORED
  if not counted_N.any():
    raise ValueError('no example has a label: there is nothing to measure')
  label_N = label_N[counted_N]
  prediction_GN = prediction_GN[:, counted_N]
  within_GN = within_GN[:, counted_N]
  group_N = group_C[label_N]
  right_GN = prediction_GN == label_N[None]
  same_GN = group_C[prediction_GN] == group_N[None]

  by_group = lambda x_GN: per_example.mean_by_group(x_GN, group_N, num_groups)
  return Superclasses(
    same_GN.mean(1),
    by_group(same_GN),
    by_group(same_GN & ~right_GN),
    by_group(~same_GN),
    by_group(within_GN == label_N[None]),
  )
