"""Exports the embeddings of both splits as numpy files, streamed to disk."""

from collections.abc import Iterator
import pathlib

import jax
from ml_collections import ConfigDict
import numpy as np

from mrl_jax import terminal
from mrl_jax.data.batches.damage import DamageLog
from mrl_jax.stages import build
from mrl_jax.training import sharding
from mrl_jax.training import state as state_lib
from mrl_jax.workdir import Checkpoint
from mrl_jax.workdir import checksums
from mrl_jax.workdir import embeddings
from mrl_jax.workdir import files
from mrl_jax.workdir import npy
from mrl_jax.workdir import Workdir


def outputs(config: ConfigDict, workdir: Workdir) -> list[pathlib.Path]:
  return [
    path
    for split in (config.train_split, config.eval_split)
    for path in embeddings.paths(workdir.embeddings, split)
  ]


def run(
  config: ConfigDict, workdir: Workdir, checkpoint: Checkpoint | None = None
) -> None:
  """Writes embeddings/<split>-x.npy, -y.npy and .json for both splits.

  `checkpoint` is the one to read; None: what the config says.
  """
  if checkpoint is None:
    checkpoint = build.chosen(config, workdir)
  mesh = sharding.make_mesh(config.mesh.data * config.mesh.model)
  sources = {
    split: build.source(config, split, workdir)
    for split in (config.train_split, config.eval_split)
  }
  trained = build.trained(
    config,
    workdir,
    mesh,
    sources[config.train_split].num_classes,
    needed_by='embed',
    checkpoint=checkpoint,
  )
  embed_step = state_lib.make_embed_step(
    trained.graphdef, build.normalize(config), sharding=sharding.over_data(mesh)
  )
  for split, source in sources.items():
    damage = DamageLog(config.max_damaged)
    batches = build.evaluation_batches(config, source, mesh, damage)
    rows = _embed(embed_step, trained, batches)
    if jax.process_index():
      # Takes its part in computing them; the first process writes.
      for _ in rows:
        pass
      sharding.union(damage.keys)
      continue
    paths = embeddings.paths(workdir.embeddings, split)
    count, dim = _write(rows, paths)
    # Each process has seen those of its own rows.
    damaged = sharding.union(damage.keys)
    checksums.write(
      paths[2],
      {
        'count': count,
        'dim': dim,
        'nesting_dims': list(config.nesting_dims),
        'head': config.head,
        'normalised': False,
        'dataset': config.embeddings or config.dataset,
        'split': split,
        **checkpoint.as_json(),
        'config_hash': workdir.hash_of(),
        'damaged': damaged,
      },
      paths[:2],
    )
    if line := damage.report():
      terminal.say(line)
    terminal.say(f'embed: {count:,} x {dim} float32 in {paths[0]}')


def _embed(embed_step, trained, batches) -> Iterator[tuple[np.ndarray, ...]]:
  """The embeddings and labels of each batch, without its padding."""
  pending = None
  for batch in batches:
    embedding_ND = embed_step(trained.params, trained.batch_stats, batch)
    # One batch late, so that the host decodes while the device works.
    if pending:
      yield _to_host(*pending)
    pending = (embedding_ND, batch['label'], batch['mask'])
  yield _to_host(*pending)


def _to_host(*arrays: jax.Array) -> tuple[np.ndarray, np.ndarray]:
  embedding_ND, label_N, mask_N = map(sharding.to_host, arrays)
  return embedding_ND[mask_N], label_N[mask_N]


def _write(rows, paths) -> tuple[int, int]:
  """Streams embeddings and labels to disk; returns their count and width."""
  x_path, y_path, manifest_path = paths
  # A manifest always speaks of the arrays beside it.
  manifest_path.unlink(missing_ok=True)
  with (
    files.replacing(x_path) as x_temporary,
    files.replacing(y_path) as y_temporary,
    npy.Writer(x_temporary) as x_file,
    npy.Writer(y_temporary) as y_file,
  ):
    for embedding_ND, label_N in rows:
      if not np.isfinite(embedding_ND).all():
        raise ValueError(f'the embeddings for {x_path} are not finite')
      x_file.append(embedding_ND)
      y_file.append(label_N)
  return np.load(x_path, mmap_mode='r').shape
