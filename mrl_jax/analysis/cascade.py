"""Adaptive classification: the smallest width that is confident decides.

As in arXiv 2205.13147, section 4.2, and its notebook, each width but the last
has a threshold, fitted to this width and the next alone.
"""

from collections.abc import Callable, Sequence
import pathlib
from typing import NamedTuple

import msgspec
import numpy as np

from mrl_jax import checks
from mrl_jax.workdir import checksums
from mrl_jax.workdir import files

THRESHOLDS = np.linspace(0.1, 1, 100)


class Cascade(NamedTuple):
  """Widths, and the probability each but the last must exceed to decide.

  Probabilities are the softmax of logits / temperature. The paper's cascade
  sums the logits of an image and its mirror image, which is their mean at a
  temperature of 0.5.
  """

  dims: tuple[int, ...]
  thresholds: tuple[float, ...]
  temperature: float = 1.0


_CASCADE = checks.instance(Cascade)


class Curve(NamedTuple):
  """Mean and standard deviation over repeats, for each last width [G].

  Attributes:
    accuracy: the share of examples that are right.
    last: the mean width that decides.
    cumulated: the mean sum of the widths up to the one that decides.
    thresholds: the fitted thresholds [G - 1].
  """

  accuracy: tuple[np.ndarray, np.ndarray]
  last: tuple[np.ndarray, np.ndarray]
  cumulated: tuple[np.ndarray, np.ndarray]
  thresholds: tuple[np.ndarray, np.ndarray]


@checks.takes(
  dims=checks.wholes(),
  confidence_GN=checks.numbers('GN'),
  right_GN=checks.booleans('GN'),
  temperature=checks.positive,
)
def fit(
  dims: Sequence[int],
  confidence_GN: np.ndarray,
  right_GN: np.ndarray,
  *,
  temperature: float = 1.0,
) -> Cascade:
  """Fits the threshold of each width to it and the next.

  The threshold gives the highest accuracy; of several, it is the smallest.

  Args:
    dims: the widths.
    confidence_GN: the probability of each width's predicted class.
    right_GN: whether that class is right.
    temperature: the temperature of the confidences.
  """
  _check_shapes(dims, confidence_GN, right_GN)
  pairs = zip(confidence_GN, right_GN, right_GN[1:], strict=False)
  thresholds = tuple(_threshold(*pair) for pair in pairs)
  return Cascade(tuple(dims), thresholds, temperature)


def _check_shapes(dims, confidence_GN, right_GN) -> None:
  if confidence_GN.shape != right_GN.shape or len(dims) != len(right_GN):
    raise ValueError(
      f'{len(dims)} dims, confidences {confidence_GN.shape}, results '
      f'{right_GN.shape}: must be [G] and twice [G, N]'
    )


def _threshold(confidence_N, right_N, next_right_N) -> float:
  # The number of thresholds that the confidence exceeds.
  passed_N = np.searchsorted(THRESHOLDS, confidence_N, side='left')
  gain_N = right_N.astype(np.int64) - next_right_N
  gain = np.bincount(passed_N, gain_N, minlength=len(THRESHOLDS) + 1)
  gain_of_each = np.cumsum(gain[::-1])[::-1][1:]
  return float(THRESHOLDS[gain_of_each.argmax()])


@checks.takes(cascade=_CASCADE, confidence_GN=checks.numbers('GN'))
def stops(cascade: Cascade, confidence_GN: np.ndarray) -> np.ndarray:
  """The index of the width that decides each example, int [N]."""
  G = len(cascade.dims)
  if len(confidence_GN) != G:
    raise ValueError(
      f'{len(confidence_GN)} widths: the cascade has {G}, {cascade.dims}'
    )
  sure_GN = np.ones(confidence_GN.shape, bool)
  thresholds_G1 = np.array(cascade.thresholds)[:, None]
  sure_GN[:-1] = confidence_GN[:-1] > thresholds_G1
  return sure_GN.argmax(0)


@checks.takes(cascade=_CASCADE, logits_GNC=checks.numbers('GNC'))
def predict(
  cascade: Cascade, logits_GNC: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Predicts each example's class, and the width that decided, both [N]."""
  logits_GNC = np.asarray(logits_GNC, np.float32)
  stop_N = stops(cascade, _confidence(cascade, logits_GNC))
  class_N = logits_GNC[stop_N, np.arange(len(stop_N))].argmax(-1)
  return class_N, np.array(cascade.dims)[stop_N]


def walk(
  cascade: Cascade,
  logits_of: Callable[[int, np.ndarray], np.ndarray],
  count: int,
) -> tuple[np.ndarray, np.ndarray]:
  """Predicts as `predict`, and asks each width only for undecided examples.

  Args:
    cascade: the widths and their thresholds.
    logits_of: `(g, rows_B) -> logits_BC`, the logits of width `dims[g]` for
      these examples.
    count: the number of examples.
  """
  class_N, dim_N = np.empty(count, np.int64), np.empty(count, np.int64)
  left = np.arange(count)
  for g, dim in enumerate(cascade.dims):
    if not left.size:
      break
    logits_BC = np.asarray(logits_of(g, left), np.float32)
    class_N[left], dim_N[left] = logits_BC.argmax(-1), dim
    if g < len(cascade.thresholds):
      sure_B = _confidence(cascade, logits_BC) > cascade.thresholds[g]
      left = left[~sure_B]
  return class_N, dim_N


def _confidence(cascade, logits):
  top = logits.max(-1, keepdims=True)
  return 1 / np.exp((logits - top) / cascade.temperature).sum(-1)


@checks.takes(
  dims=checks.wholes(),
  confidence_GN=checks.numbers('GN'),
  right_GN=checks.booleans('GN'),
  fit_share=checks.number(0, 1),
  repeats=checks.whole(),
  seed=checks.whole(0),
)
def measure(
  dims: Sequence[int],
  confidence_GN: np.ndarray,
  right_GN: np.ndarray,
  *,
  fit_share: float = 0.2,
  repeats: int = 30,
  seed: int = 0,
) -> Curve:
  """Fits on a random part of the examples and tests on the rest, repeatedly.

  Args:
    dims: the widths.
    confidence_GN: the probability of each width's predicted class.
    right_GN: whether that class is right.
    fit_share: the share of examples to fit on.
    repeats: how often to draw them.
    seed: the seed of the draws.

  Raises:
    ValueError: either part would be empty, or there are no repeats.
  """
  _check_shapes(dims, confidence_GN, right_GN)
  N = right_GN.shape[1]
  num_fit = round(fit_share * N)
  if not 0 < num_fit < N:
    raise ValueError(
      f'{N} examples: too few to fit on a share of {fit_share} and test on '
      'the rest'
    )
  rng = np.random.default_rng(seed)
  results = []
  for _ in range(repeats):
    order = rng.permutation(N)
    fitted, tested = order[:num_fit], order[num_fit:]
    cascade = fit(dims, confidence_GN[:, fitted], right_GN[:, fitted])
    parts = _test(cascade, confidence_GN[:, tested], right_GN[:, tested])
    results.append((*parts, np.array(cascade.thresholds)))
  return Curve(
    *(
      (np.mean(runs, 0), np.std(runs, 0)) for runs in zip(*results, strict=True)
    )
  )


def _test(cascade, confidence_GN, right_GN):
  """Accuracy and both expected dims, each [G], where each width is the last."""
  dims_G = np.array(cascade.dims)
  stop_N, everyone = stops(cascade, confidence_GN), np.arange(right_GN.shape[1])
  rows = []
  for last in range(len(dims_G)):
    at_N = np.minimum(stop_N, last)
    rows.append(
      (
        right_GN[at_N, everyone].mean(),
        dims_G[at_N].mean(),
        dims_G.cumsum()[at_N].mean(),
      )
    )
  return tuple(np.array(rows).T)


class _Saved(msgspec.Struct):
  """The content of a cascade.json."""

  dims: tuple[int, ...]
  thresholds: tuple[float, ...]
  temperature: float = 1.0


def save(path: pathlib.Path, cascade: Cascade) -> None:
  checksums.write(path, cascade._asdict())


def load(path: pathlib.Path) -> Cascade:
  """Loads what `save` or analyze wrote.

  A file written by hand needs no checksum. Raises ValueError if the file is
  damaged or does not describe a cascade.
  """
  checksums.check_beside(path, path, 'run --mode=analyze again')
  saved = files.read_json(path, _Saved)
  dims, thresholds = saved.dims, saved.thresholds
  if not dims or len(thresholds) != len(dims) - 1:
    raise ValueError(
      f'{path}: must have dims and one threshold for each but the last'
    )
  if dims[0] < 1 or sorted({*dims}) != [*dims] or not saved.temperature > 0:
    raise ValueError(
      f'{path}: dims {[*dims]}, temperature {saved.temperature:g}: must '
      'increase, and be positive'
    )
  return Cascade(dims, thresholds, saved.temperature)
