"""Gathers the input of an evaluation, and writes its tables."""

from collections.abc import Iterator, Mapping, Sequence
import pathlib
from typing import Any

from ml_collections import ConfigDict
import numpy as np

from mrl_jax import losses
from mrl_jax import retrieval
from mrl_jax.analysis.accuracy import Measured
from mrl_jax.analysis.accuracy import Outputs
from mrl_jax.analysis.accuracy import TrainingSet
from mrl_jax.stages import config as config_lib
from mrl_jax.terminal import tables
from mrl_jax.workdir import checksums
from mrl_jax.workdir import embeddings
from mrl_jax.workdir import files
from mrl_jax.workdir import Workdir
from mrl_jax.workdir.predictions import Writer


def training_set(config: ConfigDict, workdir: Workdir) -> TrainingSet:
  """Reads the exported training embeddings, without rows that have no label."""
  embedding_MD, label_M, _ = embeddings.load(
    workdir.embeddings, config.train_split
  )
  counted = np.flatnonzero(label_M != losses.IGNORED)
  if len(counted) < len(label_M):
    embedding_MD, label_M = embedding_MD[counted], label_M[counted]
  dims = config_lib.measured_dims(config)
  database = retrieval.prepare(embedding_MD, dims)
  return TrainingSet(database, embedding_MD, label_M)


def collect(
  batches: Iterator[Mapping[str, np.ndarray]],
  dims: Sequence[int],
  writer: Writer | None = None,
  saved_dims: Sequence[int] = (),
) -> Outputs:
  """Gathers the outputs of `inference.make_predict_step`, without padding.

  `dims` are the classifier dims, in the order of the outputs; the writer, if
  given, saves the predictions at `saved_dims`. Raises ValueError if no example
  counts, or a loss is not finite.
  """
  saved_G = np.array([dims.index(dim) for dim in saved_dims if writer], int)
  parts, read = [], 0
  for batch in batches:
    mask_N = batch['mask']
    loss_GN, top_GNK = batch['loss'][:, mask_N], batch['top'][:, mask_N]
    label_N, index_N = batch['label'][mask_N], read + np.flatnonzero(mask_N)
    embedding_ND = batch['embedding'][mask_N] if 'embedding' in batch else None
    parts.append((loss_GN, top_GNK, label_N, index_N, embedding_ND))
    read += len(mask_N)
    if not np.isfinite(loss_GN).all():
      raise ValueError('the evaluation loss is not finite')
    if writer:
      logits_GNC = batch['logits'][:, mask_N] if 'logits' in batch else None
      writer.append(logits_GNC, top_GNK[saved_G, :, 0], label_N)
  loss, top, label, index, embedding = zip(*parts, strict=True)
  if not sum(map(len, label)):
    raise ValueError('every image of the evaluation split is damaged')
  return Outputs(
    tuple(dims),
    np.concatenate(loss, 1),
    np.concatenate(top, 1),
    np.concatenate(label),
    np.concatenate(index),
    None if embedding[0] is None else np.concatenate(embedding),
  )


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
  """Writes `<name>`.md, .csv and .json, and `<name>`-classes.csv.

  `widths` are the measured dims, a row of the table each; `dims` the classifier
  dims, a column of the table of classes each; `record` is further content of
  the JSON file. Returns the table of the metrics at every width.
  """
  table = tables.widths(measured.values, widths)
  rows = [
    (class_name, *(None if np.isnan(x) else float(x) for x in accuracy_G))
    for class_name, accuracy_G in zip(
      class_names, measured.per_class_GS.T, strict=True
    )
  ]
  classes = tables.Table(('class', *(f'top-1 % at {m}' for m in dims)), rows)
  files.write_text(folder / f'{name}.md', tables.markdown(table))
  files.write_text(folder / f'{name}.csv', tables.csv(table))
  files.write_text(folder / f'{name}-classes.csv', tables.csv(classes))
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
