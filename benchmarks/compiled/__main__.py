"""The command; see the package."""

import argparse
import os
import re
import sys

from benchmarks import compiled
from benchmarks.compiled import targets

WHAT = ('train', 'eval', 'embed', 'pairs', 'head', 'search')


def main() -> None:
  args = _parse()
  targets.set_environment()
  try:
    run(args)
  except ValueError as error:
    sys.exit(f'error: {error}')


def run(args: argparse.Namespace) -> None:
  """Compiles and prints all programs; writes each row when it is there."""
  from benchmarks import timing
  from benchmarks.compiled import heads
  from benchmarks.compiled import measure
  from benchmarks.compiled import pairs
  from benchmarks.compiled import searching
  from benchmarks.compiled import training

  makers = {
    'train': training.train,
    'eval': training.evaluate,
    'embed': training.embed,
    'pairs': pairs.programs,
    'head': heads.programs,
    'search': searching.programs,
  }
  wanted = [targets.parse(name) for name in args.target]
  if args.save:
    os.makedirs(args.save, exist_ok=True)
  record = {'environment': timing.environment('jax', 'jaxlib'), **vars(args)}
  print(', '.join(f'{k} {v}' for k, v in record['environment'].items()))
  for target in wanted:
    chip = target.chip
    print(
      f'\n{target.name}: {chip.teraflops} TFLOP/s, {chip.gigabytes_s} GB/s, '
      f'{chip.gigabytes} GB ({chip.source})'
    )
    for what in args.what:
      rows = []
      for chips in args.chips or sorted({1, target.chips}):
        whole = target.holding(chips)
        for name, make in makers[what](args, whole.devices()[:chips]):
          label = f'{what}: {name} ({chips})'
          if not re.search(args.only, label):
            continue
          save = args.save and f'{args.save}/{what}-{len(rows)}-{chips}.hlo'
          row = measure.measure(
            name, make(), whole, chips, options=args.options, save=save
          )
          print(f'  {label}: {row["compile s"]:.1f} s', flush=True)
          rows.append(row)
          if args.json:
            record[f'{target.name}, {what}'] = rows
            timing.write_json(args.json, record)
      title = f'{target.name}, {what}'
      for table in measure.tables(rows):
        if table:
          timing.show(title, table)


def _parse() -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    prog='python -m benchmarks.compiled',
    description=compiled.__doc__.split('\n')[0],
  )
  add = parser.add_argument
  texts = lambda text: text.split(',')
  numbers = lambda text: [int(x) for x in text.split(',')]
  sizes = lambda text: [numbers(x.replace('x', ',')) for x in text.split(',')]
  add('--target', type=texts, default=['v5e:2x4'], help='as v6e:2x4,h100x8')
  add('--what', type=_whats, default=list(WHAT), help=','.join(WHAT))
  add('--chips', type=numbers, help='numbers of chips; default: 1 and all')
  add('--only', default='', help='pattern of what: name (chips)')
  add('--json', help='file for the figures')
  add('--save', default='', help='folder for the compiled texts')
  options = lambda text: dict(x.split('=', 1) for x in text.split(','))
  add('--options', type=options, default={}, help="XLA's, as name=value")
  add('--tiny', action='store_true', help='small sizes and encoder, to try it')
  add('--encoder', help='default: resnet50')
  add('--batch_size', type=int, help='of a chip; default: 128')
  add('--image_size', type=int, help='default: 160')
  add('--dtype', default='bfloat16', choices=('float32', 'bfloat16'))
  add('--heads', type=sizes, help='sizes NxDxC, comma-separated')
  add(
    '--block_mib', type=int, help='logits in a block; default: as in training'
  )
  args = parser.parse_args()
  tiny = args.tiny
  args.encoder = args.encoder or 'resnet50'
  args.batch_size = args.batch_size or (8 if tiny else 128)
  args.image_size = args.image_size or (16 if tiny else 160)
  args.num_classes = 16 if tiny else 1000
  large = [[256, 2048, 1000], [8192, 2048, 21841]]
  args.heads = args.heads or ([[128, 32, 256]] if tiny else large)
  # Pairs and width; queries, rows, width and neighbours.
  args.contrastive = [64, 24] if tiny else [4096, 768]
  args.search = [8, 2048, 32, 8] if tiny else [512, 1_281_167, 2048, 200]
  return args


def _whats(text: str) -> list[str]:
  for what in text.split(','):
    if what not in WHAT:
      raise argparse.ArgumentTypeError(
        f'what {what}: must be of {",".join(WHAT)}'
      )
  return text.split(',')


if __name__ == '__main__':
  main()
