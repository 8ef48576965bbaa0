"""Classifies embeddings by the heads of an export, in numpy."""

from collections.abc import Mapping, Sequence
import pathlib
from typing import NamedTuple

import numpy as np

from mrl_jax.analysis import cascade as cascade_lib
from mrl_jax.analysis.cascade import Cascade
from mrl_jax.workdir import npy


class Predictions(NamedTuple):
  """The K most probable classes of each of N images, the likeliest first.

  Attributes:
    classes_NK: numbers of the classes, int64; ties go to the lower number.
    probabilities_NK: their probabilities among all classes, float32.
    names: their names, N tuples of K; the number of a class without a name.
    dims_N: the width that decided for each image, int64.
  """

  classes_NK: np.ndarray
  probabilities_NK: np.ndarray
  names: list[tuple[str, ...]]
  dims_N: np.ndarray


class Heads(NamedTuple):
  """Linear classifiers of embedding prefixes.

  Attributes:
    weights: kernel [m, C] and bias [C] by width m.
    shared: whether there is one classifier, whose leading rows serve every
      narrower width (MRL-E).
  """

  weights: Mapping[int, tuple[np.ndarray, np.ndarray]]
  shared: bool

  @property
  def last(self) -> int:
    return max(self.weights)

  @property
  def num_classes(self) -> int:
    return len(self.weights[self.last][1])

  def check(self, dim: int) -> None:
    """Raises ValueError for a width that has no classifier."""
    if self.shared:
      if not 0 < dim <= self.last:
        raise ValueError(f'dim {dim}: must be in [1, {self.last}]')
    elif dim not in self.weights:
      raise ValueError(
        f'dim {dim} has no classifier: must be one of {(*self.weights,)}'
      )

  def logits(self, embedding_ND: np.ndarray, dim: int) -> np.ndarray:
    """Logits of the leading `dim` numbers, float32 [N, C]."""
    self.check(dim)
    kernel_mC, bias_C = self.weights[self.last if self.shared else dim]
    return embedding_ND[:, :dim] @ kernel_mC[:dim] + bias_C


def read(path: pathlib.Path, *, shared: bool) -> Heads:
  """Reads an export's heads.npz.

  It has `kernel_<m>` [m, C] and `bias_<m>` [C] for each width m; for MRL-E for
  the last one only. Raises ValueError if the file is missing or damaged.
  """
  if not path.is_file():
    raise ValueError(
      f'{path} is not there, which classes need: run --mode=export again'
    )
  try:
    arrays = npy.load_npz(path)
    dims = sorted(
      int(name.removeprefix('kernel_'))
      for name in arrays
      if name.startswith('kernel_')
    )
    weights = {m: (arrays[f'kernel_{m}'], arrays[f'bias_{m}']) for m in dims}
    shapes = [x.shape for pair in weights.values() for x in pair]
    C = shapes[0][1]
    if shapes != [shape for m in dims for shape in ((m, C), (C,))]:
      raise ValueError(f'the arrays have the shapes {shapes}')
  except (ValueError, LookupError, OSError) as error:
    raise ValueError(
      f'{path} cannot be read ({error}): run --mode=export again'
    ) from error
  return Heads(weights, shared)


def decide(
  heads: Heads, embedding_ND: np.ndarray, rule: Cascade
) -> tuple[np.ndarray, np.ndarray]:
  """The logits [N, C] that decide, and the width they are of, int64 [N]."""
  logits_NC = np.empty((len(embedding_ND), heads.num_classes), np.float32)

  def logits_of(g, rows_B):
    # Only undecided rows are asked at the next width: the last answer stays.
    logits_NC[rows_B] = heads.logits(embedding_ND[rows_B], rule.dims[g])
    return logits_NC[rows_B]

  _, dims_N = cascade_lib.walk(rule, logits_of, len(embedding_ND))
  return logits_NC, dims_N


def top(
  logits_NC: np.ndarray, count: int, temperature: float
) -> tuple[np.ndarray, np.ndarray]:
  """The `count` likeliest classes, with softmax(logits / temperature)."""
  classes_NK = np.argsort(-logits_NC, axis=1, kind='stable')[:, :count]
  weight_NC = np.exp(
    (logits_NC - logits_NC.max(1, keepdims=True)) / temperature
  )
  probability_NC = weight_NC / weight_NC.sum(1, keepdims=True)
  return classes_NK, np.take_along_axis(probability_NC, classes_NK, axis=1)


def named(
  classes_NK: np.ndarray, class_names: Sequence[str]
) -> list[tuple[str, ...]]:
  """Names of the classes, see `Predictions.names`."""
  known = dict(enumerate(class_names))
  return [
    tuple(known.get(c, str(c)) for c in row) for row in classes_NK.tolist()
  ]
