"""Exports the embeddings of both splits as numpy files, streamed to disk."""

import pathlib
import re

import jax
from ml_collections import ConfigDict
import numpy as np

from mrl_jax import npy
from mrl_jax import sharding
from mrl_jax import state as state_lib
from mrl_jax import workdir as workdir_lib
from mrl_jax import writer as writer_lib
from mrl_jax.data.damage import DamageLog
from mrl_jax.stages import build
from mrl_jax.workdir import Workdir


def run(config: ConfigDict, workdir: Workdir) -> None:
  """Writes embeddings/<split>-x.npy, -y.npy and .json for both splits."""
  mesh = sharding.make_mesh(config.num_devices)
  sources = {
    split: build.source(config, split)
    for split in (config.train_split, config.eval_split)
  }
  trained = build.trained(
    config,
    workdir,
    mesh,
    sources[config.train_split].num_classes,
    needed_by='embed',
  )
  embed_step = state_lib.make_embed_step(
    trained.graphdef, build.normalize(config)
  )
  for split, source in sources.items():
    damage = DamageLog(config.max_damaged)
    batches = build.evaluation_batches(config, source, mesh, damage)
    count, dim = _export(embed_step, trained, batches, mesh, workdir, split)
    if not jax.process_index():
      workdir_lib.write_json(
        _paths(workdir, split)[2],
        {
          'count': count,
          'dim': dim,
          'nesting_dims': list(config.nesting_dims),
          'head': config.head,
          'normalised': False,
          'dataset': config.dataset,
          'split': split,
          'step': trained.step,
          'config_hash': workdir.config_hash(),
          'damaged': damage.keys,
        },
      )
    if line := damage.report():
      writer_lib.say(line)
    writer_lib.say(
      f'embed: {count:,} x {dim} float32 in {_paths(workdir, split)[0]}'
    )


def load(
  workdir: Workdir, split: str
) -> tuple[np.ndarray, np.ndarray, dict[str, object]]:
  """The embeddings [N, D] (a memmap), labels [N] and manifest of a split.

  Raises ValueError if a file is missing or they disagree with each other.
  """
  x_path, y_path, manifest_path = _paths(workdir, split)
  for path in (manifest_path, x_path, y_path):
    workdir.require('embed', 'this stage', path)
  manifest = workdir_lib.read_json(manifest_path)
  try:
    embedding_ND = np.load(x_path, mmap_mode='r', allow_pickle=False)
    label_N = np.load(y_path, allow_pickle=False)
  except (ValueError, EOFError, OSError) as error:
    raise ValueError(
      f'{x_path} or its labels cannot be read: {error}'
    ) from error
  expected = (manifest['count'], manifest['dim'])
  if embedding_ND.shape != expected or label_N.shape != expected[:1]:
    raise ValueError(
      f'{manifest_path} says {expected[0]} embeddings of width {expected[1]}, '
      f'but the arrays are {embedding_ND.shape} and {label_N.shape}: run '
      '--mode=embed again'
    )
  return embedding_ND, label_N, manifest


def _paths(workdir: Workdir, split: str) -> tuple[pathlib.Path, ...]:
  # TFDS splits may hold brackets and colons.
  stem = re.sub(r'[^\w.+-]+', '_', split).strip('_')
  return tuple(
    workdir.embeddings / f'{stem}{end}' for end in ('-x.npy', '-y.npy', '.json')
  )


def _export(embed_step, trained, batches, mesh, workdir, split):
  """Streams the embeddings to disk; returns their count and width."""
  x_path, y_path, manifest_path = _paths(workdir, split)
  rows = (_embed(embed_step, trained, batch, mesh) for batch in batches)
  if jax.process_index():
    # Takes its part in computing them; the first process writes.
    count = sum(len(label_N) for _, label_N in rows)
    return count, 0
  # A manifest always speaks of the arrays beside it.
  manifest_path.unlink(missing_ok=True)
  labels = []
  with (
    workdir_lib.replacing(x_path) as temporary,
    npy.RowWriter(temporary) as file,
  ):
    for embedding_ND, label_N in rows:
      file.append(embedding_ND)
      labels.append(label_N)
  with (
    workdir_lib.replacing(y_path) as temporary,
    npy.RowWriter(temporary) as file,
  ):
    file.append(np.concatenate(labels))
  return np.load(x_path, mmap_mode='r').shape


def _embed(embed_step, trained, batch, mesh):
  batch = sharding.shard_batch(batch, mesh)
  embedding_ND = embed_step(trained.params, trained.batch_stats, batch)
  embedding_ND, label_N, mask_N = (
    sharding.to_host(x) for x in (embedding_ND, batch['label'], batch['mask'])
  )
  return embedding_ND[mask_N], label_N[mask_N]
