"""Predictions and confidences of each example, in one pass over the logits."""

from typing import NamedTuple

import numpy as np

from mrl_jax import checks
from mrl_jax.retrieval import inputs

# Examples read at a time; 9 widths of 1,000 classes take 18 MB in float32.
_BLOCK = 512


class Outcomes(NamedTuple):
  """The outputs of each width for each example.

  Attributes:
    prediction_GN: the class, int32; ties go to the lower one.
    confidence_GN: the probability of that class, float32.
    within_GN: the class predicted among those of the label's group, int32; None
      without groups.
  """

  prediction_GN: np.ndarray
  confidence_GN: np.ndarray
  within_GN: np.ndarray | None


@checks.takes(
  logits_GNC=checks.numbers('GNC'),
  label_N=checks.integers('N'),
  group_C=checks.integers('C'),
  temperature=checks.positive,
)
def read(
  logits_GNC: np.ndarray,
  label_N: np.ndarray,
  *,
  group_C: np.ndarray | None = None,
  temperature: float = 1.0,
) -> Outcomes:
  """Reads the logits once, block by block; a memmap is never read as a whole.

  Args:
    logits_GNC: the logits, floats of any precision.
    label_N: the classes, -1 where there is none.
    group_C: the group of each class, integers.
    temperature: the number that logits are divided by.

  Raises:
    ValueError: shapes that do not fit, a label that is no class, or logits
      that are not finite.
  """
  G, N, C = logits_GNC.shape
  label_N = check_labels(label_N, N, C)
  if group_C is not None and np.shape(group_C) != (C,):
    raise ValueError(f'groups of shape {np.shape(group_C)}: must be ({C},)')
  prediction_GN = np.empty((G, N), np.int32)
  confidence_GN = np.empty((G, N), np.float32)
  within_GN = None if group_C is None else np.empty((G, N), np.int32)
  for start in range(0, N, _BLOCK):
    rows = slice(start, start + _BLOCK)
    for g in range(G):
      block_NC = np.asarray(logits_GNC[g, rows], np.float32)
      top_N = block_NC.max(1)  # NaN where there is any NaN.
      if not np.isfinite(top_N).all():
        raise ValueError(
          f'logits of examples {start} to {start + len(block_NC) - 1} are not '
          'finite: save them again from a model that is'
        )
      prediction_GN[g, rows] = block_NC.argmax(1)
      if within_GN is not None:
        within_GN[g, rows] = _within(block_NC, label_N[rows], group_C)
      total_N = np.exp((block_NC - top_N[:, None]) / temperature).sum(1)
      confidence_GN[g, rows] = 1 / total_N
  return Outcomes(prediction_GN, confidence_GN, within_GN)


def check_labels(label_N: np.ndarray, N: int, C: int) -> np.ndarray:
  """The labels as int64; ValueError unless they are N classes below C or -1."""
  label_N = inputs.labels(label_N, 'labels', N)
  wrong = label_N[(label_N < inputs.IGNORED) | (label_N >= C)]
  if wrong.size:
    raise ValueError(f'label {wrong[0]}: must be in [0, {C}), or -1')
  return label_N


def mean_by_group(
  values_GN: np.ndarray, group_N: np.ndarray, num_groups: int
) -> np.ndarray:
  """The mean over the examples of each group, [G, S]; NaN without examples."""
  count_S = np.bincount(group_N, minlength=num_groups)
  sum_GS = np.zeros((len(values_GN), num_groups))
  for g, value_N in enumerate(values_GN):
    sum_GS[g] = np.bincount(group_N, value_N, minlength=num_groups)
  with np.errstate(invalid='ignore'):
    return sum_GS / count_S[None]


def _within(block_NC, label_N, group_C):
  """The class predicted among those of the label's group."""
  chosen_N = np.full(len(label_N), inputs.IGNORED, np.int32)
  known_N = label_N != inputs.IGNORED
  group_N = np.where(known_N, group_C[label_N], -1)
  for group in np.unique(group_N[known_N]):
    members = np.flatnonzero(group_C == group)
    rows = np.flatnonzero(group_N == group)
    chosen_N[rows] = members[block_NC[np.ix_(rows, members)].argmax(1)]
  return chosen_N
