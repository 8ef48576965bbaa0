"""Compares finished runs in the form of the paper's Tables 1 and 2.

    python -m mrl_jax.compare RUN RUN …

Each RUN is the workdir of an evaluated run; all have the same dataset and
encoder. Runs of the same kind and width (seeds) are averaged. SVD, random
features and their linear probe are computed from the fixed-feature run of the
full width, if there is one. On ImageNet, published figures are shown, too.
"""

import argparse
from collections.abc import Iterable, Mapping, Sequence

from mrl_jax import terminal
from mrl_jax.compare import means
from mrl_jax.compare import published
from mrl_jax.compare import runs as runs_lib
from mrl_jax.terminal import arguments
from mrl_jax.terminal import ending
from mrl_jax.terminal import tables

_COLUMNS = {
  'linear': ('Rand. LP', 'SVD', 'FF', 'Slim', 'MRL', 'MRL-E'),
  '1-NN': ('Rand. FS', 'SVD', 'JL', 'FF cut', 'FF', 'Slim', 'MRL', 'MRL-E'),
}
_TITLES = {
  'linear': 'Linear top-1 % (Table 1)',
  '1-NN': '1-NN top-1 % (Table 2)',
}
# The text of a cell, by method and width.
Cells = dict[str, dict[int, str]]


def run(paths: Sequence[str], *, probe: bool = True) -> None:
  """Prints the tables of the runs in these workdirs.

  `probe` trains the linear probe of random features (Rand. LP). Raises
  ValueError if a run is not evaluated, or not comparable with the first.
  """
  runs = [runs_lib.read(path) for path in paths]
  runs_lib.check_alike(runs)
  config = runs[0].config
  dims = sorted({dim for one in runs for dim in runs_lib.widths(one)})
  ours = {
    'linear': _averaged((one.kind, one.linear) for one in runs),
    '1-NN': _averaged((one.kind, one.neighbor) for one in runs),
  }
  notes = []
  full = runs_lib.full_width(runs)
  if full is None:
    notes.append(
      'SVD, random features and their probe: need a run of the fixed head at '
      "all of the encoder's width."
    )
  else:
    found = runs_lib.linear_baselines(full, dims, probe=probe)
    ours['linear'] |= _averaged(found.items())
    found, sampled = runs_lib.neighbor_baselines(full, dims)
    if sampled:
      notes.append(
        'Rand. FS, SVD, JL and FF cut by 1-NN: of a random sample of queries '
        'and rows.'
      )
    ours['1-NN'] |= _averaged(found.items())
  is_imagenet = published.DATASET in config.dataset
  print(
    f'{config.encoder} on {config.dataset}, {config.eval_split}: '
    f'{len(runs)} runs'
  )
  for name, cells in ours.items():
    theirs = published.table(name) if is_imagenet else {}
    print(f'\n{_TITLES[name]}')
    print(terminal.table(table(name, dims, cells, theirs)))
  for note in notes:
    print(note)
  if is_imagenet:
    marks = '; '.join(
      f'{mark or "unmarked"}, {what}' for mark, what in published.MARKS.items()
    )
    print(f'Published (arXiv 2205.13147, ResNet-50): {marks}.')


def table(
  name: str,
  dims: Sequence[int],
  ours: Mapping[str, Mapping[int, str]],
  theirs: Mapping[str, Mapping[int, str]],
) -> tables.Table:
  """Makes a table of the methods with figures, published ones after ours."""
  columns = {}
  for method in _COLUMNS[name]:
    if ours.get(method):
      columns[method] = ours[method]
    if theirs.get(method):
      columns[f'{method} published'] = theirs[method]
  rows = [
    (dim, *(column.get(dim) for column in columns.values())) for dim in dims
  ]
  return tables.Table(('width', *columns), rows)


def _averaged(
  accuracies: Iterable[tuple[str, Mapping[int, float | None]]],
) -> Cells:
  """Averages those of one name, with the deviation where there are several."""
  values = {}
  for kind, by_width in accuracies:
    for dim, value in by_width.items():
      if value is not None:
        values.setdefault(kind, {}).setdefault(dim, []).append(value)
  return {
    kind: {dim: str(means.mean(found)) for dim, found in by_width.items()}
    for kind, by_width in values.items()
  }


def main(argv: Sequence[str] | None = None) -> None:
  parser = argparse.ArgumentParser(
    prog='python -m mrl_jax.compare', description=__doc__.split('\n')[0]
  )
  parser.add_argument(
    'runs', nargs='+', type=arguments.path, help='workdirs of evaluated runs'
  )
  parser.add_argument(
    '--probe',
    action=argparse.BooleanOptionalAction,
    default=True,
    help='train Rand. LP, hours for ImageNet on a CPU',
  )
  args = parser.parse_args(argv)
  with ending.in_one_line():
    run(args.runs, probe=args.probe)


if __name__ == '__main__':
  main()
