"""Whether a width is right as often as it is sure."""

import numpy as np


def expected_calibration_error(
  confidence_GN: np.ndarray, right_GN: np.ndarray, *, bins: int = 15
) -> np.ndarray:
  """Of each width [G]: mean |accuracy - confidence| over equal bins of (0, 1].

  Each bin weighs as many as its examples (arXiv 1706.04599). Raises ValueError
  for no examples, shapes that differ or no bins.
  """
  if confidence_GN.shape != right_GN.shape or not right_GN.size or bins < 1:
    raise ValueError(
      f'confidences {confidence_GN.shape}, results {right_GN.shape}, {bins} '
      'bins: shapes must be the same and not empty, bins at least 1'
    )
  bin_GN = np.clip(np.ceil(confidence_GN * bins).astype(int) - 1, 0, bins - 1)
  gap_GN = right_GN - confidence_GN.astype(np.float64)
  sums_GB = [
    np.bincount(bin_N, gap_N, minlength=bins)
    for bin_N, gap_N in zip(bin_GN, gap_GN, strict=True)
  ]
  return np.abs(sums_GB).sum(1) / right_GN.shape[1]
