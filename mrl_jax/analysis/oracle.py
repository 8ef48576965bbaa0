"""What the widths together could know (arXiv 2205.13147, appendix J)."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mrl_jax import checks
from mrl_jax.analysis import per_example
from mrl_jax.retrieval import inputs


class Oracle(NamedTuple):
  """Examples by the smallest width that is right on them.

  Attributes:
    first_N: its index; G where none is right.
    count_G: examples of each width.
    never: examples that no width is right on.
    accuracy: share that some width is right on.
    expected_dim: mean smallest width of those; NaN if there are none.
    expected_dim_never_at_last: mean over all, those of `never` at the last
      width, as the paper's notebook counts them.
  """

  first_N: np.ndarray
  count_G: np.ndarray
  never: int
  accuracy: float
  expected_dim: float
  expected_dim_never_at_last: float


@checks.takes(
  dims=checks.wholes(),
  right_GN=checks.booleans('GN'),
)
def oracle(dims: Sequence[int], right_GN: np.ndarray) -> Oracle:
  G, N = right_GN.shape
  if len(dims) != G or not N:
    raise ValueError(f'{len(dims)} dims for results of shape {right_GN.shape}')
  first_N = np.where(right_GN.any(0), right_GN.argmax(0), G)
  count = np.bincount(first_N, minlength=G + 1)
  dims_G, ever = np.asarray(dims), first_N < G
  return Oracle(
    first_N,
    count[:G],
    int(count[G]),
    float(ever.mean()),
    float(dims_G[first_N[ever]].mean()) if ever.any() else float('nan'),
    float(dims_G[np.minimum(first_N, G - 1)].mean()),
  )


@checks.takes(
  prediction_GN=checks.integers('GN'),
)
def majority(prediction_GN: np.ndarray) -> np.ndarray:
  """The class that most widths predict [N]; ties go to the lower class."""
  votes_GN = (prediction_GN[:, None] == prediction_GN[None]).sum(0)
  tied_GN = votes_GN == votes_GN.max(0)
  last = np.iinfo(prediction_GN.dtype).max
  return np.where(tied_GN, prediction_GN, last).min(0)


@checks.takes(
  prediction_GN=checks.integers('GN'),
)
def agreement(prediction_GN: np.ndarray) -> np.ndarray:
  """Share of examples on which two widths predict the same, [G, G]."""
  return (prediction_GN[:, None] == prediction_GN[None]).mean(-1)


@checks.takes(
  right_GN=checks.booleans('GN'),
  label_N=checks.integers('N'),
  num_classes=checks.whole(),
)
def per_class(
  right_GN: np.ndarray, label_N: np.ndarray, num_classes: int
) -> np.ndarray:
  """Accuracy of each width on each class [G, C]; NaN without examples.

  Examples of label -1 do not count.
  """
  label_N = per_example.check_labels(label_N, right_GN.shape[1], num_classes)
  counted_N = label_N != inputs.IGNORED
  label_N, right_GN = label_N[counted_N], right_GN[:, counted_N]
  count_C = np.bincount(label_N, minlength=num_classes)
  right_GC = np.zeros((len(right_GN), len(count_C)))
  for g, x in enumerate(right_GN):
    right_GC[g] = np.bincount(label_N, x, minlength=num_classes)
  present_C = count_C > 0
  return np.where(
    present_C[None], right_GC / np.maximum(count_C, 1)[None], np.nan
  )


def trends(accuracy_GC: np.ndarray) -> list[str]:
  """How each class changes with width: the signs of its steps, in order.

  `better` and `worse` never turn, `rises, dips` and `dips, rises` turn once;
  `level` never moves, `mixed` turns more often, `absent` has no examples.
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
