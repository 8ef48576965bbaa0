"""Accuracy of an evaluation set at every width: top-k, k-NN and few-shot."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from mrl_jax import losses
from mrl_jax import retrieval
from mrl_jax.analysis import few_shot as few_shot_lib
from mrl_jax.analysis import oracle
from mrl_jax.losses import metrics

# Queries whose neighbours vote at a time, which bounds the memory.
_BLOCK = 4096
# A rank below which no top-k is right.
_WRONG = 5


class Settings(NamedTuple):
  """Settings of the neighbours' vote and of few-shot classification.

  Attributes:
    widths: the measured dims.
    neighbors: how many neighbours vote, beside the nearest alone.
    shots: examples of each class, one few-shot setting each.
    ways: classes of a few-shot task; 0: all. Never more than there are.
    repeats: random draws of examples and classes.
    seed: seeds the draws.
  """

  widths: tuple[int, ...]
  neighbors: int
  shots: tuple[int, ...]
  ways: tuple[int, ...]
  repeats: int
  seed: int


class Outputs(NamedTuple):
  """Model outputs for every undamaged example of a set, in dataset order.

  Attributes:
    dims: the G classifier dims.
    loss_GN: losses in nats.
    top_GNK: the best classes, best first.
    label_N: the labels.
    index_N: the places of the examples in the set.
    embedding_ND: the embeddings; None: not computed in this pass.
  """

  dims: tuple[int, ...]
  loss_GN: np.ndarray
  top_GNK: np.ndarray
  label_N: np.ndarray
  index_N: np.ndarray
  embedding_ND: np.ndarray | None


class TrainingSet(NamedTuple):
  """Training embeddings: the k-NN database and the few-shot support set.

  With `leave_one_out` its rows are the very examples that are measured and
  count, in the same order: none is its own neighbour, and few-shot is left out.
  """

  database: Any
  embedding_MD: np.ndarray
  label_M: np.ndarray
  leave_one_out: bool = False


class Measured(NamedTuple):
  """The metrics of a set.

  Attributes:
    values: accuracies in percent and losses in nats, by `<name>@<width>`.
    per_class_GS: top-1 in percent at each classifier dim, of each class.
    few_shot: a record for each few-shot setting.
    notes: a line for each metric that could not be had.
  """

  values: dict[str, float]
  per_class_GS: np.ndarray
  few_shot: list[dict[str, Any]]
  notes: list[str]


def measure(
  settings: Settings,
  outputs: Outputs,
  training: TrainingSet,
  *,
  num_set_classes: int,
  of_model_C: np.ndarray,
  labels: Sequence[Sequence[int]] | None = None,
) -> Measured:
  """Computes every metric of an evaluation set at every width.

  Args:
    settings: for neighbours and few-shot, which are measured at all widths.
    outputs: the set's, with embeddings; top-k is measured at their dims.
    training: the database of neighbours and the few-shot support set.
    num_set_classes: S, the number of the set's classes.
    of_model_C: the set's class for each class of the model, or -1. A neighbour
      of class -1 counts as wrong.
    labels: all the right classes of each example. Then examples without any do
      not count, and loss and few-shot are left out.

  Raises:
    ValueError: no example has a label.
  """
  counted_N = outputs.label_N != losses.IGNORED
  label_NL = outputs.label_N[:, None]
  if labels is not None:
    counted_N = np.array([len(x) > 0 for x in labels])
    most = max(map(len, labels))
    label_NL = np.array([[*x, *[-1] * (most - len(x))] for x in labels])
  if not counted_N.any():
    raise ValueError('no example of the set has a label')
  counted = np.flatnonzero(counted_N)
  label_QL = label_NL[counted]
  right_GQK = _is_right(outputs.top_GNK[:, counted], label_QL)
  rank_GQ = np.where(right_GQK.any(-1), right_GQK.argmax(-1), _WRONG)
  sums = metrics.masked_sums(
    outputs.loss_GN[:, counted].astype(float), rank_GQ, counted_N[counted]
  )
  values = metrics.from_sums(outputs.dims, sums, '')
  query_QD = outputs.embedding_ND
  if len(counted) < len(counted_N):
    query_QD = query_QD[counted]
  values |= _neighbors(settings, query_QD, label_QL, training, of_model_C)
  few_shot, notes = [], []
  if labels is None:
    few_shot, notes = _few_shot(
      settings, query_QD, label_QL[:, 0], training, of_model_C
    )
    for setting in few_shot:
      values |= metrics.per_width(
        setting['name'], settings.widths, setting['accuracy']
      )
  else:
    values = {k: x for k, x in values.items() if not k.startswith('loss@')}
  per_class_GS = 100 * oracle.per_class(
    rank_GQ < 1, outputs.label_N[counted], num_set_classes
  )
  return Measured(values, per_class_GS, few_shot, notes)


def _is_right(predicted_QK: np.ndarray, label_QL: np.ndarray) -> np.ndarray:
  """Whether each prediction [..., Q, K] is one of its example's labels."""
  equal_QKL = predicted_QK[..., None] == label_QL[:, None, :]
  # Labels of -1 fill up the rows.
  return (equal_QKL & (label_QL >= 0)[:, None, :]).any(-1)


def _neighbors(
  settings: Settings,
  query_QD: np.ndarray,
  label_QL: np.ndarray,
  training: TrainingSet,
  of_model_C: np.ndarray,
) -> dict[str, float]:
  """1-NN accuracy, and that of the neighbours' vote, by cosine similarity."""
  alone = training.leave_one_out
  k = min(settings.neighbors, len(training.label_M) - alone)
  if not k:
    raise ValueError('the split has one example: it has no other to be near to')
  # Each class that the set does not have votes for itself, and is wrong.
  own_C = -2 - np.arange(len(of_model_C))
  of_model_C = np.where(of_model_C < 0, own_C, of_model_C)
  one, many = [], []
  for dim in settings.widths:
    found = retrieval.search(
      query_QD, training.database, k, dim=dim, leave_one_out=alone
    )
    label_QK = of_model_C[training.label_M[found.ids_QK]]
    one.append(100 * _is_right(label_QK[:, :1], label_QL).mean())
    vote_Q = np.concatenate(
      [
        few_shot_lib.vote(label_QK[start : start + _BLOCK])
        for start in range(0, len(label_QK), _BLOCK)
      ]
    )
    many.append(100 * _is_right(vote_Q[:, None], label_QL).mean())
  values = metrics.per_width('knn1', settings.widths, one)
  if settings.neighbors > 1:
    name = f'knn{settings.neighbors}'
    values |= metrics.per_width(name, settings.widths, many)
  return values


def _few_shot(
  settings: Settings,
  query_QD: np.ndarray,
  query_label_Q: np.ndarray,
  training: TrainingSet,
  of_model_C: np.ndarray,
) -> tuple[list[dict[str, Any]], list[str]]:
  """A record for each setting, and a note for each that is impossible."""
  if training.leave_one_out:
    note = 'neighbours are others of the same split, and few-shot is left out'
    return [], [note]
  support_label_M = of_model_C[training.label_M]
  present = np.unique(query_label_Q)
  if len(present) < 2:
    return [], ['few-shot: left out, as all examples are of one class']
  known_M = support_label_M[support_label_M >= 0]
  least = np.bincount(known_M, minlength=present[-1] + 1)[present].min()
  ways_ = dict.fromkeys(
    min(ways or len(present), len(present)) for ways in settings.ways
  )
  records, notes = [], []
  for shots in settings.shots:
    if shots > least:
      notes.append(
        f'few-shot: {shots} shots left out, as a class has {least} training '
        'examples'
      )
      continue
    for ways in ways_:
      result = few_shot_lib.few_shot(
        training.embedding_MD,
        support_label_M,
        query_QD,
        query_label_Q,
        dims=settings.widths,
        shots=shots,
        ways=ways,
        repeats=settings.repeats,
        seed=settings.seed,
      )
      records.append(
        {
          'name': f'shot{shots}way{ways}',
          'shots': shots,
          'ways': ways,
          'accuracy': (100 * result.mean).tolist(),
          'std': (100 * result.std).tolist(),
        }
      )
  return records, notes
