"""Compares nested towers with towers trained for each width, on emoji.

    python -m mrl_jax.data.prepare.emoji datasets/emoji
    python -m benchmarks.emoji --out=DIR --seeds=0,1,2

trains `emoji_clip_mrl` with all widths, and for each width alone, evaluates
them, and prints means over the seeds. The full-width towers are measured at the
other widths, too: these are cut ones. Further flags go to every run; runs that
are finished are skipped.
"""

import argparse
from collections.abc import Sequence
import json
import pathlib
import subprocess
import sys

import numpy as np

from mrl_jax.terminal import arguments
from mrl_jax.terminal import tables

DIMS = (8, 16, 32, 64)
_SHOWN = {
  'names/t2i_recall10': 'held-out names, text to image recall@10, %',
  'kinds/zero_shot': 'held-out names, zero-shot top-1, %',
  'fluent_names/t2i_recall10': 'second style, text to image recall@10, %',
  'fluent_kinds/zero_shot': 'second style, zero-shot top-1, %',
  'names/cosine_of_pairs': 'held-out names, mean cosine of pairs',
}


def run(out: pathlib.Path, width: int, seed: int, flags: Sequence[str]) -> None:
  """Trains and evaluates towers of one width, or of all (0)."""
  options = [f'--config.seed={seed}', '--config.eval_dims=()']
  if width:
    cut = [str(m) for m in DIMS if m < width == DIMS[-1]]
    options = [
      options[0],
      f'--config.nesting_dims={width}',
      f'--config.pairs.width={width}',
      f'--config.eval_dims={",".join(cut) or "()"}',
    ]
  subprocess.run(
    [
      sys.executable,
      '-m',
      'mrl_jax.launch',
      '--config=configs/emoji_clip_mrl.py',
      f'--workdir={out / _name(width, seed)}',
      '--mode=train,evaluate',
      *options,
      *flags,
    ],
    check=True,
  )


def read(out: pathlib.Path, width: int, seed: int) -> dict[str, float]:
  """The values that a run has measured; none if it is not there."""
  found = {}
  for path in sorted((out / _name(width, seed) / 'evaluation').glob('*.json')):
    found |= json.loads(path.read_text())['values']
  return found


def table(out: pathlib.Path, seeds: Sequence[int], metric: str) -> tables.Table:
  """Means and, behind ±, deviations over the seeds that are there."""
  rows = []
  for m in DIMS:
    cells = []
    for width in (0, m, DIMS[-1]):
      found = [read(out, width, seed).get(f'{metric}@{m}') for seed in seeds]
      there = [x for x in found if x is not None]
      cells.append(_cell(there, 2 if 'cosine' in metric else 1))
    rows.append((m, *cells))
  return tables.Table(('width', 'MRL', 'trained alone', 'cut'), rows)


def _cell(values: Sequence[float], digits: int) -> str | None:
  """Their mean, deviation and number; None without any."""
  if not values:
    return None
  mean, deviation = np.mean(values), np.std(values)
  return f'{mean:.{digits}f} ± {deviation:.{digits}f} ({len(values)})'


def _name(width: int, seed: int) -> str:
  return f'{width or "mrl"}-{seed}'


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--out', type=arguments.path, required=True)
  parser.add_argument('--seeds', type=arguments.wholes, default=(0, 1, 2))
  parser.add_argument(
    '--widths',
    type=arguments.wholes,
    default=(0, *reversed(DIMS)),
    help='those that are trained alone; 0: all together',
  )
  args, flags = parser.parse_known_args()
  out = pathlib.Path(args.out)
  for seed in args.seeds:
    for width in args.widths:
      run(out, width, seed, flags)
  for metric, name in _SHOWN.items():
    print(f'\n{name}\n')
    print(tables.markdown(table(out, args.seeds, metric)))


if __name__ == '__main__':
  main()
