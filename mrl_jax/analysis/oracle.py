"""The accuracy of an ideal choice of width (arXiv 2205.13147, appendix J)."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mrl_jax import checks
from mrl_jax.analysis import per_example
from mrl_jax.retrieval import inputs


class Oracle(NamedTuple):
  """Counts of examples by the smallest width that is right.

  Attributes:
    count_G: the number of examples whose smallest right width is this one.
    never: the number of examples on which no width is right.
    accuracy: the share of examples on which some width is right.
    expected_dim: their mean smallest right width; NaN if there are none.
  """

  count_G: np.ndarray
  never: int
  accuracy: float
  expected_dim: float


@checks.takes(dims=checks.wholes(), right_GN=checks.booleans('GN'))
def oracle(dims: Sequence[int], right_GN: np.ndarray) -> Oracle:
  """Counts examples by the smallest of the `dims` that is right on them."""
  G = len(right_GN)
  if len(dims) != G:
    raise ValueError(f'{len(dims)} dims for results of shape {right_GN.shape}')
  first_N = np.where(right_GN.any(0), right_GN.argmax(0), G)
  count = np.bincount(first_N, minlength=G + 1)
  ever = first_N < G
  smallest = np.asarray(dims)[first_N[ever]]
  expected = float(smallest.mean()) if ever.any() else float('nan')
  return Oracle(count[:G], int(count[G]), float(ever.mean()), expected)


@checks.takes(prediction_GN=checks.integers('GN'))
def majority(prediction_GN: np.ndarray) -> np.ndarray:
  """The class that most widths predict [N]; ties go to the lower class."""
  votes_GN = (prediction_GN[:, None] == prediction_GN[None]).sum(0)
  tied_GN = votes_GN == votes_GN.max(0)
  last = np.iinfo(prediction_GN.dtype).max
  return np.where(tied_GN, prediction_GN, last).min(0)


@checks.takes(prediction_GN=checks.integers('GN'))
def agreement(prediction_GN: np.ndarray) -> np.ndarray:
  """The share of examples on which two widths predict the same, [G, G]."""
  return (prediction_GN[:, None] == prediction_GN[None]).mean(-1)


@checks.takes(
  right_GN=checks.booleans('GN', empty=True),
  label_N=checks.integers('N'),
  num_classes=checks.whole(),
)
def per_class(
  right_GN: np.ndarray, label_N: np.ndarray, num_classes: int
) -> np.ndarray:
  """The accuracy of each width on each class [G, C]; NaN without examples.

  Examples of label -1 do not count.
  """
  label_N = per_example.check_labels(label_N, right_GN.shape[1], num_classes)
  counted_N = label_N != inputs.IGNORED
  return per_example.mean_by_group(
    right_GN[:, counted_N], label_N[counted_N], num_classes
  )


def trends(accuracy_GC: np.ndarray) -> list[str]:
  """Names how the accuracy of each class changes from width to width.

  `better` and `worse` go one way, `rises, dips` and `dips, rises` turn once,
  `mixed` turns more often; `level` never changes, `absent` has no examples.
  """
  return [_trend(accuracy_G) for accuracy_G in accuracy_GC.T]


def _trend(accuracy_G) -> str:
  if np.isnan(accuracy_G).any():
    return 'absent'
  signs = np.sign(np.diff(accuracy_G))
  signs = signs[signs != 0]
  turns = int((signs[1:] != signs[:-1]).sum())
  if not signs.size:
    return 'level'
  names = {(0, 1): 'better', (0, -1): 'worse'}
  names |= {(1, 1): 'rises, dips', (1, -1): 'dips, rises'}
  return names.get((turns, int(signs[0])), 'mixed')
