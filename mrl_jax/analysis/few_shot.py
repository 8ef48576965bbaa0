"""Classification without training: nearest class means, and votes of k-NN."""

from typing import NamedTuple

import numpy as np


class FewShot(NamedTuple):
  """Accuracy, a share, over the repeats."""

  mean: float
  std: float


def few_shot(
  support_MD: np.ndarray,
  support_label_M: np.ndarray,
  query_QD: np.ndarray,
  query_label_Q: np.ndarray,
  *,
  shots: int,
  ways: int | None = None,
  repeats: int = 5,
  seed: int = 0,
) -> FewShot:
  """Nearest mean, by cosine, of `shots` random examples of `ways` classes.

  Slice the embeddings to a width first. Each repeat draws its own classes and
  examples; queries of other classes do not count. `ways` None: all classes that
  the queries have. Ties go to the lower class.

  Raises:
    ValueError: fewer classes than ways, a class with fewer examples than shots,
      or no repeats.
  """
  classes = np.unique(query_label_Q)
  ways = len(classes) if ways is None else ways
  if not 2 <= ways <= len(classes):
    raise ValueError(f'ways {ways}: must be in [2, {len(classes)}]')
  if repeats < 1 or shots < 1:
    raise ValueError(f'shots {shots}, repeats {repeats}: must be at least 1')
  rows_of = {c: np.flatnonzero(support_label_M == c) for c in classes}
  for c, rows in rows_of.items():
    if len(rows) < shots:
      raise ValueError(
        f'class {c} has {len(rows)} examples: {shots} shots need as many'
      )
  rng = np.random.default_rng(seed)
  query_QD = _normalize(query_QD)
  accuracies = []
  for _ in range(repeats):
    chosen = np.sort(rng.choice(classes, ways, replace=False))
    mean_WD = np.stack(
      [
        _normalize(
          support_MD[rng.choice(rows_of[c], shots, replace=False)]
        ).mean(0)
        for c in chosen
      ]
    )
    counted = np.isin(query_label_Q, chosen)
    nearest = (query_QD[counted] @ _normalize(mean_WD).T).argmax(1)
    accuracies.append((chosen[nearest] == query_label_Q[counted]).mean())
  return FewShot(float(np.mean(accuracies)), float(np.std(accuracies)))


def vote(neighbor_label_QK: np.ndarray) -> np.ndarray:
  """The most frequent label of each row [Q]; ties to the nearer neighbour."""
  same_QKK = neighbor_label_QK[:, :, None] == neighbor_label_QK[:, None, :]
  winner_Q = same_QKK.sum(2).argmax(1)
  return neighbor_label_QK[np.arange(len(winner_Q)), winner_Q]


def _normalize(x_ND: np.ndarray) -> np.ndarray:
  x_ND = np.asarray(x_ND, np.float32)
  norm_N1 = np.linalg.norm(x_ND, axis=1, keepdims=True)
  return x_ND / np.maximum(norm_N1, np.finfo(np.float32).tiny)
