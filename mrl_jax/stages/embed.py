"""Exports the embeddings of both splits as numpy files, streamed to disk."""

from collections.abc import Callable, Iterable, Iterator
import pathlib

import jax
from ml_collections import ConfigDict
import numpy as np

from mrl_jax import terminal
from mrl_jax.data.batches.damage import DamageLog
from mrl_jax.stages import inputs
from mrl_jax.stages import recorded
from mrl_jax.stages import trained as trained_lib
from mrl_jax.stages.trained import Trained
from mrl_jax.training import inference
from mrl_jax.training import sharding
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


def run(config: ConfigDict, workdir: Workdir, checkpoint: Checkpoint) -> None:
  """Writes embeddings/<split>-x.npy, -y.npy and .json for both splits."""
  sources = {
    split: recorded.open_mapped(config, split, workdir)
    for split in (config.train_split, config.eval_split)
  }
  num_classes = sources[config.train_split].num_classes
  trained = trained_lib.restore(config, workdir, checkpoint, num_classes)
  embed_step = inference.make_embed_step(
    trained.graphdef,
    inputs.normalize(config),
    sharding=sharding.over_data(trained.mesh),
  )
  for split, source in sources.items():
    damage = DamageLog(config.max_damaged)
    batches = inputs.evaluation_batches(config, source, trained.mesh, damage)
    rows = _embed(embed_step, trained, batches)
    if jax.process_index():
      # This process helps to compute the rows; the first one writes them.
      for _ in rows:
        pass
      sharding.union(damage.keys)
      continue
    paths = embeddings.paths(workdir.embeddings, split)
    count, dim = _write(rows, paths)
    # Each process has seen the damaged images among its own rows only.
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


def _embed(
  embed_step: Callable, trained: Trained, batches: Iterable
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """The embeddings and labels of each batch, without its padding."""
  outputs = (
    (
      embed_step(trained.params, trained.batch_stats, batch),
      batch['label'],
      batch['mask'],
    )
    for batch in batches
  )
  for arrays in inference.one_behind(outputs):
    embedding_ND, label_N, mask_N = map(sharding.to_host, arrays)
    yield embedding_ND[mask_N], label_N[mask_N]


def _write(rows, paths) -> tuple[int, int]:
  """Streams embeddings and labels to disk; returns their count and width."""
  x_path, y_path, manifest_path = paths
  # No manifest is ever beside arrays that it does not describe.
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
