"""Times all analyses of a run, and evaluation at all widths beside one.

    python -m benchmarks.analysis [--json=FILE] [--examples=50000]
                                  [--classes=1000] [--width=2048]

The logits are synthetic, float16 on disk, and more accurate at larger widths;
embeddings are class centres plus noise. `MiB` is the peak resident memory,
mapped files included. Then follows the evaluation pass over images, at all
widths and at the last one alone.
"""

import argparse
import pathlib
import resource
import tempfile
import time

from flax import nnx
import jax
from jax import numpy as jnp
import numpy as np

from benchmarks import imagenet
from benchmarks import timing
from mrl_jax import models
from mrl_jax import nesting
from mrl_jax.analysis import few_shot
from mrl_jax.analysis import results
from mrl_jax.training import inference
from mrl_jax.workdir import checksums
from mrl_jax.workdir import predictions

_BLOCK = 1000
SUPPORT = 10  # Training examples of each class.


def main() -> None:
  parser = argparse.ArgumentParser(
    prog='python -m benchmarks.analysis', description=__doc__.split('\n')[0]
  )
  add = parser.add_argument
  add('--json', help='file for the figures')
  add('--examples', type=int, default=50_000)
  add('--classes', type=int, default=1000)
  add('--width', type=int, default=2048)
  add('--encoder', default='resnet50', choices=tuple(models.ENCODERS))
  add('--batch_size', type=int, default=32)
  add('--image_size', type=int, default=224)
  add('--rounds', type=int, default=5)
  args = parser.parse_args()
  record = {'environment': timing.environment('jax', 'numpy'), **vars(args)}
  print(', '.join(f'{k} {v}' for k, v in record['environment'].items()))
  dims = nesting.doubling(8, args.width)
  title = (
    f'{args.examples:,} examples, {len(dims)} widths, {args.classes:,} classes'
  )
  record[title] = _analyses(args, dims)
  timing.show(title, record[title])
  title = (
    f'{args.encoder}, batch {args.batch_size}, {args.image_size} pixels, '
    'float32'
  )
  record[title] = _evaluation(args)
  timing.show(title, record[title])
  if args.json:
    timing.write_json(args.json, record)


def _analyses(args, dims) -> list[timing.Row]:
  with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    x_path = _write(folder, args, dims)
    start = time.perf_counter()
    saved = predictions.load(folder, 'val', dims)
    x = np.load(x_path, mmap_mode='r')
    names = [str(i) for i in range(args.classes)]
    groups = np.arange(args.classes) % 31, tuple(map(str, range(31)))
    results.plain(
      results.compute(
        dims,
        saved,
        x[: args.examples],
        names,
        groups=groups,
        fitting=results.Fitting(),
        seed=0,
      )
    )
    rows = [_row('all but few-shot', start)]
    start = time.perf_counter()
    support_label_M = np.repeat(np.arange(args.classes), SUPPORT)
    for shots in (1, 5):
      for ways in (10, args.classes):
        few_shot.few_shot(
          x[args.examples :],
          support_label_M,
          x[: args.examples],
          saved.label_N,
          dims=dims,
          shots=shots,
          ways=ways,
        )
    rows.append(_row('few-shot: 1 and 5 shots, 10 and all ways', start))
    rows.append(
      {
        'what': 'together',
        's': sum(row['s'] for row in rows),
        'MiB': rows[-1]['MiB'],
      }
    )
    return rows


def _row(name: str, start: float) -> timing.Row:
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
  return {'what': name, 's': time.perf_counter() - start, 'MiB': peak}


def _write(folder, args, dims) -> pathlib.Path:
  """Writes what evaluate saves; returns the path of embeddings, queries first.

  Block by block, so that writing adds nothing to the peak of memory.
  """
  rng = np.random.default_rng(0)
  G, N, C = len(dims), args.examples, args.classes
  with predictions.writing(
    folder, 'val', predictions.KINDS, dims=dims, count=N
  ) as writer:
    for start in range(0, N, _BLOCK):
      label_B = np.arange(start, min(start + _BLOCK, N)) % C
      logits = rng.standard_normal((G, len(label_B), C), np.float32)
      gain_G = np.linspace(3, 5, G)[:, None]
      logits[:, np.arange(len(label_B)), label_B] += gain_G
      writer.append(logits.astype(np.float16), logits.argmax(-1), label_B)
  manifest = {'dims': list(dims), 'count': N, 'num_classes': C}
  paths = predictions.paths(folder, 'val')
  written = [paths[kind] for kind in predictions.KINDS]
  checksums.write(paths['manifest'], manifest, written)
  label = np.concatenate([np.arange(N) % C, np.repeat(np.arange(C), SUPPORT)])
  centre_CD = rng.standard_normal((C, args.width), np.float32)
  path = folder / 'x.npy'
  x = np.lib.format.open_memmap(
    path, 'w+', np.float32, (len(label), args.width)
  )
  for start in range(0, len(label), _BLOCK):
    rows = slice(start, start + _BLOCK)
    noise = rng.standard_normal((len(label[rows]), args.width), np.float32)
    x[rows] = centre_CD[label[rows]] + 2 * noise
  x.flush()
  return path


def _evaluation(args) -> list[timing.Row]:
  width = models.num_features(args.encoder)
  rng = np.random.default_rng(0)
  shape = (args.batch_size, args.image_size, args.image_size, 3)
  batch = jax.device_put(
    {
      'image': rng.integers(0, 256, shape, np.uint8),
      'label': np.zeros(args.batch_size, np.int32),
      'mask': np.ones(args.batch_size, bool),
    }
  )
  functions = {}
  for name, dims in {
    'the last': (width,),
    'all': nesting.doubling(8, width),
  }.items():
    model = models.Classifier(
      args.encoder, dims, args.classes, dtype=jnp.float32, rngs=nnx.Rngs(0)
    )
    graphdef, params, stats = nnx.split(model, nnx.Param, nnx.BatchStat)
    parts = nnx.to_pure_dict(params), nnx.to_pure_dict(stats)
    step = inference.make_predict_step(
      graphdef,
      imagenet.normalize,
      inference.Wanted(saved_dims=dims),
    )
    functions[f'{name}: {len(dims)}'] = lambda step=step, parts=parts: (
      jax.block_until_ready(step(*parts, batch))
    )
  ms = timing.medians(functions, args.rounds)
  one = next(iter(ms.values()))
  return [
    {'widths': name, 'ms': value, 'x one': value / one}
    for name, value in ms.items()
  ]


if __name__ == '__main__':
  main()
