"""Calibration: whether confidences agree with accuracies."""

from typing import NamedTuple

import numpy as np

from mrl_jax import checks


class Calibration(NamedTuple):
  """Calibration over B equal bins of the confidence (0, 1] (arXiv 1706.04599).

  Attributes:
    error_G: the expected calibration error, a share: |accuracy - confidence|
      averaged over bins, weighted by their examples.
    confidence_GB: the mean confidence in each bin; NaN without examples.
    accuracy_GB: the share that is right; NaN without examples.
    count_GB: the number of examples.
  """

  error_G: np.ndarray
  confidence_GB: np.ndarray
  accuracy_GB: np.ndarray
  count_GB: np.ndarray


@checks.takes(
  confidence_GN=checks.numbers('GN'),
  right_GN=checks.booleans('GN'),
  bins=checks.whole(),
)
def bin_confidences(
  confidence_GN: np.ndarray, right_GN: np.ndarray, *, bins: int = 15
) -> Calibration:
  """Measures the calibration of each width.

  Args:
    confidence_GN: the probability of the predicted class, in [0, 1].
    right_GN: whether that class is right.
    bins: the number of bins.

  Raises:
    ValueError: there are no examples or bins, shapes differ, or a confidence is
      outside [0, 1].
  """
  if confidence_GN.shape != right_GN.shape:
    raise ValueError(
      f'confidences {confidence_GN.shape}, results {right_GN.shape}: must be '
      'the same shape'
    )
  confidence_GN = np.asarray(confidence_GN, np.float64)
  # NaN fails this comparison, too.
  if not ((confidence_GN >= 0) & (confidence_GN <= 1)).all():
    raise ValueError('confidences must be in [0, 1], and not NaN')
  bin_GN = np.clip(np.ceil(confidence_GN * bins).astype(int) - 1, 0, bins - 1)

  def sums(values_GN):
    pairs = zip(bin_GN, values_GN, strict=True)
    return np.stack([np.bincount(b, v, minlength=bins) for b, v in pairs])

  count_GB = sums(np.ones_like(right_GN)).astype(int)
  confidence_GB, right_GB = sums(confidence_GN), sums(right_GN)
  mean = lambda sum_GB: np.where(
    count_GB > 0, sum_GB / np.maximum(count_GB, 1), np.nan
  )
  return Calibration(
    np.abs(right_GB - confidence_GB).sum(1) / right_GN.shape[1],
    mean(confidence_GB),
    mean(right_GB),
    count_GB,
  )
