"""Times the nested adaptor on synthetic vectors; its 1-NN beside PCA's.

    python -m benchmarks.adaptor [--json=FILE] [--rows=100000] [--width=2048]
                                 [--classes=100,1000] [--head=mrl]

Classes are centres in a space of 64 dims, in noise of all dims, of which some
are louder and say nothing; a random rotation spreads all of it over every dim,
so that the first ones mean nothing by themselves. The training is the one of
`configs/adapt_embeddings.py`, its start and the reading of the files included.
"""

import argparse
import pathlib
import tempfile
import time

import numpy as np

from benchmarks import timing
from configs import adapt_embeddings
from mrl_jax import retrieval
from mrl_jax import stages
from mrl_jax.retrieval import projections
from mrl_jax.workdir import embeddings

DIMS = (8, 16, 64)
QUERIES = 2000
SIGNAL = 64
# Deviation of the noise, and of the dims that are louder; their number.
NOISE, LOUD, NUM_LOUD = 0.7, 2.8, 16


def main() -> None:
  parser = argparse.ArgumentParser(
    prog='python -m benchmarks.adaptor', description=__doc__.split('\n')[0]
  )
  add = parser.add_argument
  add('--json', help='file for the figures')
  add('--rows', type=int, default=100_000)
  add('--width', type=int, default=2048)
  add('--classes', default='100,1000', help='one or more')
  add('--head', default='mrl', choices=('mrl', 'mrl_e'))
  add('--epochs', type=int, default=10)
  add('--batch_size', type=int, default=256)
  args = parser.parse_args()
  record = {'environment': timing.environment('jax', 'jaxlib'), **vars(args)}
  print(', '.join(f'{k} {v}' for k, v in record['environment'].items()))
  for num_classes in map(int, args.classes.split(',')):
    title = (
      f'{args.rows:,} x {args.width}, {num_classes:,} classes, {args.head}, '
      f'{args.epochs} epochs'
    )
    with tempfile.TemporaryDirectory() as folder:
      record[title] = _compare(args, pathlib.Path(folder), num_classes)
    timing.show(title, record[title])
  if args.json:
    timing.write_json(args.json, record)


def _write(args, folder: pathlib.Path, num_classes: int) -> None:
  rng = np.random.default_rng(0)
  D = args.width
  center_CD = np.zeros((num_classes, D), np.float32)
  center_CD[:, :SIGNAL] = rng.normal(size=(num_classes, SIGNAL))
  scale_D = np.full(D, NOISE, np.float32)
  scale_D[D - NUM_LOUD :] = LOUD
  rotation_DD = np.linalg.qr(rng.normal(size=(D, D)))[0].astype(np.float32)
  for split, count in (('train', args.rows), ('val', QUERIES)):
    label_N = rng.integers(0, num_classes, count)
    row_ND = np.empty((count, D), np.float32)
    for start in range(0, count, 10_000):
      label_B = label_N[start : start + 10_000]
      noise_BD = scale_D * rng.standard_normal((len(label_B), D), np.float32)
      row_ND[start : start + 10_000] = center_CD[label_B] + noise_BD
      row_ND[start : start + 10_000] @= rotation_DD
    np.save(folder / f'{split}-x.npy', row_ND)
    np.save(folder / f'{split}-y.npy', label_N)


def _compare(args, folder: pathlib.Path, num_classes: int) -> list[timing.Row]:
  _write(args, folder, num_classes)
  config = adapt_embeddings.get_config()
  config.embeddings = str(folder)
  config.head = args.head
  config.num_epochs = args.epochs
  config.batch_size = args.batch_size
  config.mesh.data = 1
  start = time.perf_counter()
  stages.run(config, folder / 'run', ('train',))
  seconds = time.perf_counter() - start
  stages.run(config, folder / 'run', ('embed',))
  adapted = [
    embeddings.load(folder / 'run' / 'embeddings', split)[0]
    for split in ('val', 'train')
  ]
  vectors = [
    np.load(folder / f'{split}-x.npy', mmap_mode='r')
    for split in ('val', 'train')
  ]
  start = time.perf_counter()
  pca = projections.principal(vectors[1], max(_dims(args)), center=True)
  pca_seconds = time.perf_counter() - start
  pairs = {
    'vectors as they are': (vectors, None),
    'PCA': ([pca(row_ND) for row_ND in vectors], pca_seconds),
    'nested adaptor': (adapted, seconds),
  }
  labels = [np.load(folder / f'{split}-y.npy') for split in ('val', 'train')]
  return [
    {'1-NN, %': name, 's': taken, **_nearest(pair, labels, _dims(args))}
    for name, (pair, taken) in pairs.items()
  ]


def _dims(args) -> tuple[int, ...]:
  return tuple(dim for dim in DIMS if dim <= args.width)


def _nearest(pair, labels, dims) -> dict[str, float]:
  query_label_Q, label_M = labels
  database = retrieval.prepare(pair[1], dims)
  accuracy = {}
  for dim in dims:
    ids_QK = retrieval.search(pair[0], database, 1, dim=dim).ids_QK
    accuracy[f'@{dim}'] = 100 * retrieval.metrics.top_k_accuracy(
      label_M[ids_QK], query_label_Q
    )
  return accuracy


if __name__ == '__main__':
  main()
