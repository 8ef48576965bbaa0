"""What a set's examples show of a trained model, at every width."""

from collections.abc import Iterator, Mapping, Sequence
import pathlib
from typing import Any, NamedTuple

from ml_collections import ConfigDict
import numpy as np

from mrl_jax import losses
from mrl_jax import retrieval
from mrl_jax.analysis import few_shot as few_shot_lib
from mrl_jax.analysis import oracle
from mrl_jax.losses import metrics
from mrl_jax.stages import build
from mrl_jax.terminal import tables
from mrl_jax.workdir import checksums
from mrl_jax.workdir import files
from mrl_jax.workdir.predictions import Writer

# Queries that vote at a time.
_BLOCK = 4096


class Seen(NamedTuple):
  """Of the examples of a set, in order, without damaged images.

  `top_GNK` are the first classes of each width, `index_N` the places in the
  set.
  """

  loss_GN: np.ndarray
  top_GNK: np.ndarray
  label_N: np.ndarray
  index_N: np.ndarray
  embedding_ND: np.ndarray | None


class Training(NamedTuple):
  """Embeddings of the training split: neighbours, and few-shot support.

  `leave_one_out` says that they are the very examples that are measured, row by
  row: then none is its own neighbour, and few-shot is left out.
  """

  database: Any
  embedding_MD: np.ndarray
  label_M: np.ndarray
  leave_one_out: bool = False


def collect(
  outputs: Iterator[Mapping[str, np.ndarray]],
  writer: Writer | None = None,
  saved_G: np.ndarray | None = None,
) -> Seen:
  """Gathers what `predict.run` yields; the writer gets the widths `saved_G`.

  Raises ValueError if no example counts, or a loss is not finite.
  """
  parts, read = [], 0
  for batch in outputs:
    mask_N = batch['mask']
    parts.append(
      (
        batch['loss'][:, mask_N],
        batch['top'][:, mask_N],
        batch['label'][mask_N],
        read + np.flatnonzero(mask_N),
        batch['embedding'][mask_N] if 'embedding' in batch else None,
      )
    )
    read += len(mask_N)
    if not np.isfinite(parts[-1][0]).all():
      raise ValueError('the evaluation loss is not finite')
    if writer:
      logits_GNC = batch['logits'][:, mask_N] if 'logits' in batch else None
      writer.append(logits_GNC, parts[-1][1][saved_G, :, 0], parts[-1][2])
  loss, top, label, index, embedding = zip(*parts, strict=True)
  if not sum(map(len, label)):
    raise ValueError('every image of the evaluation split is damaged')
  return Seen(
    np.concatenate(loss, 1),
    np.concatenate(top, 1),
    np.concatenate(label),
    np.concatenate(index),
    None if embedding[0] is None else np.concatenate(embedding),
  )


class Measured(NamedTuple):
  """Values by `<name>@<width>`, and accuracies [G, S] of each class."""

  values: dict[str, float]
  per_class_GS: np.ndarray
  few_shot: list[dict[str, Any]]
  notes: list[str]


def measure(
  config: ConfigDict,
  seen: Seen,
  embedding_ND: np.ndarray,
  training: Training,
  *,
  dims: Sequence[int],
  num_set_classes: int,
  of_model_C: np.ndarray,
  labels: Sequence[Sequence[int]] | None = None,
) -> Measured:
  """All there is to say of a set; accuracies in percent.

  Args:
    config: for the widths, neighbours, shots and ways.
    seen: of its examples.
    embedding_ND: theirs.
    training: the neighbours, and the support of few-shot classification.
    dims: the widths of `seen`.
    num_set_classes: S.
    of_model_C: the set's class of each of the model's, -1 for none. A
      neighbour of a class that is none counts as wrong.
    labels: for each example all the classes that are right; then those
      without any do not count, and loss and few-shot are left out.
  """
  counted = np.flatnonzero(seen.label_N != losses.IGNORED)
  is_right = _single(seen.label_N[counted])
  if labels is not None:
    counted = np.flatnonzero([len(x) > 0 for x in labels])
    is_right = _several([labels[i] for i in counted] or [()])
  if not counted.size:
    raise ValueError('no example of the set has a label')
  top_GNK = seen.top_GNK[:, counted]
  right_GNK = np.zeros(top_GNK.shape, bool)
  for g, top_NK in enumerate(top_GNK):
    right_GNK[g] = is_right(top_NK)
  shares = {'top1': right_GNK[..., 0], 'top5': right_GNK.any(-1)}
  values = {}
  if labels is None:
    values = metrics.per_width('loss', dims, seen.loss_GN[:, counted].mean(1))
  for name, right_GN in shares.items():
    values |= metrics.per_width(name, dims, 100 * right_GN.mean(1))
  is_all = len(counted) == len(seen.label_N)
  query_QD = embedding_ND if is_all else embedding_ND[counted]
  own_Q = counted if training.leave_one_out else None
  values |= _neighbors(config, query_QD, training, of_model_C, is_right, own_Q)
  few_shot, notes = [], []
  if labels is None:
    few_shot, notes = _few_shot(
      config, query_QD, seen.label_N[counted], training, of_model_C
    )
    for setting in few_shot:
      values |= metrics.per_width(
        setting['name'], build.widths(config), setting['accuracy']
      )
  per_class_GS = 100 * oracle.per_class(
    shares['top1'], seen.label_N[counted], num_set_classes
  )
  return Measured(values, per_class_GS, few_shot, notes)


def _single(label_N):
  return lambda predicted_NK: predicted_NK == label_N[:, None]


def _several(labels):
  most = max(map(len, labels))
  label_NL = np.array([[*x, *[-1] * (most - len(x))] for x in labels])

  def is_right(predicted_NK):
    # -1 is no class, also where a prediction is none.
    equal_NKL = predicted_NK[:, :, None] == label_NL[:, None, :]
    return (equal_NKL & (label_NL >= 0)[:, None, :]).any(-1)

  return is_right


def _neighbors(config, query_QD, training, of_model_C, is_right, own_Q):
  """1-NN, and the vote of `config.knn`, by the cosine at every width.

  `own_Q` are the queries' own rows in the database, which do not count.
  """
  dims = build.widths(config)
  leaves_out = own_Q is not None
  k = min(config.knn, len(training.label_M) - leaves_out)
  if not k:
    raise ValueError('the split has one example: it has no other to be near to')
  # Each class that the set does not have votes for itself, and is wrong.
  own_C = -2 - np.arange(len(of_model_C))
  of_model_C = np.where(of_model_C < 0, own_C, of_model_C)
  one, many = [], []
  for dim in dims:
    found = retrieval.search(
      query_QD,
      training.database,
      k,
      dim=dim,
      leave_one_out=own_Q if leaves_out else False,
    )
    label_QK = of_model_C[training.label_M[found.ids_QK]]
    one.append(100 * is_right(label_QK[:, :1]).mean())
    vote_Q = np.concatenate(
      [
        few_shot_lib.vote(label_QK[start : start + _BLOCK])
        for start in range(0, len(label_QK), _BLOCK)
      ]
    )
    many.append(100 * is_right(vote_Q[:, None]).mean())
  values = metrics.per_width('knn1', dims, one)
  if config.knn > 1:
    values |= metrics.per_width(f'knn{config.knn}', dims, many)
  return values


def _few_shot(config, query_QD, query_label_Q, training, of_model_C):
  """Each setting, and what is to be said of those that cannot be had."""
  if training.leave_one_out:
    note = 'neighbours are others of the same split, and few-shot is left out'
    return [], [note]
  support_label_M = of_model_C[training.label_M]
  settings, notes = [], []
  present = np.unique(query_label_Q)
  if len(present) < 2:
    return [], ['few-shot: left out, as all examples are of one class']
  known_M = support_label_M[support_label_M >= 0]
  least = np.bincount(known_M, minlength=present[-1] + 1)[present].min()
  ways_ = dict.fromkeys(
    min(ways or len(present), len(present)) for ways in config.few_shot.ways
  )
  for shots in config.few_shot.shots:
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
        dims=build.widths(config),
        shots=shots,
        ways=ways,
        repeats=config.few_shot.repeats,
        seed=config.seed,
      )
      settings.append(
        {
          'name': f'shot{shots}way{ways}',
          'shots': shots,
          'ways': ways,
          'accuracy': (100 * result.mean).tolist(),
          'std': (100 * result.std).tolist(),
        }
      )
  return settings, notes


def write(
  folder: pathlib.Path,
  name: str,
  measured: Measured,
  *,
  widths: Sequence[int],
  dims: Sequence[int],
  class_names: Sequence[str],
  record: Mapping[str, Any],
) -> tables.Table:
  """Writes <name>.md, .csv and .json, and <name>-classes.csv.

  Returns the table. `record` goes into the JSON file, too.
  """
  table = tables.widths(measured.values, widths)
  rows = [
    (class_name, *(None if np.isnan(x) else float(x) for x in accuracy_G))
    for class_name, accuracy_G in zip(
      class_names, measured.per_class_GS.T, strict=True
    )
  ]
  classes = tables.Table(('class', *(f'top-1 % at {m}' for m in dims)), rows)
  for path, text in (
    (folder / f'{name}.md', tables.markdown(table)),
    (folder / f'{name}.csv', tables.csv(table)),
    (folder / f'{name}-classes.csv', tables.csv(classes)),
  ):
    files.write_text(path, text)
  checksums.write(
    folder / f'{name}.json',
    {
      **record,
      'widths': list(widths),
      'values': measured.values,
      'few_shot': measured.few_shot,
    },
  )
  return table
