"""Shows where each width of a trained model looks in your images.

    python -m mrl_jax.explain RUN IMAGE … --out=saliency.png

RUN is the workdir of a trained model. The grid has a column for each width and
a row for each image, with the predicted class and its probability. The name of
the file may end in .png, .svg or .pdf.
"""

import argparse
from collections.abc import Sequence
import pathlib

from mrl_jax import stages
from mrl_jax.report import paper
from mrl_jax.report import paper_figures
from mrl_jax.stages.analyze import saliency
from mrl_jax.terminal import arguments
from mrl_jax.terminal import ending

_KINDS = ('.png', '.svg', '.pdf')


def run(args: argparse.Namespace) -> None:
  """Writes the grid; ValueError for a run without a model, or a bad image."""
  out = pathlib.Path(args.out)
  if out.suffix not in _KINDS:
    raise ValueError(f'--out={args.out}: must end in one of {_KINDS}')
  config, workdir = stages.open_recorded(args.run)
  if config.embeddings:
    raise ValueError(
      f'{args.run} was trained on vectors: only images can be looked at'
    )
  found = saliency.explain(config, workdir, args.images)
  paper_figures.save(paper.saliency_grid(*found), out)
  print(f'saliency: {len(args.images)} images at {found[0]["dims"]} in {out}')


def main(argv: Sequence[str] | None = None) -> None:
  parser = argparse.ArgumentParser(
    prog='python -m mrl_jax.explain', description=__doc__.split('\n')[0]
  )
  parser.add_argument(
    'run', type=arguments.path, help='workdir of a trained model'
  )
  parser.add_argument(
    'images', nargs='+', type=arguments.path, help='image files'
  )
  parser.add_argument(
    '--out',
    type=arguments.path,
    default='saliency.png',
    help='file to write',
  )
  args = parser.parse_args(argv)
  with ending.in_one_line():
    run(args)


if __name__ == '__main__':
  main()
