"""Judges the paper's claims by finished runs.

    python -m mrl_jax.claims DIR

reads every finished run below DIR, which `bash runs/claims.sh` makes, prints a
table of the claims, and writes claims.md, claims.json and claims.html there.
"""

import argparse
from collections.abc import Sequence
import pathlib

from mrl_jax import terminal
from mrl_jax.claims import accuracy
from mrl_jax.claims import evidence as evidence_lib
from mrl_jax.claims import language
from mrl_jax.claims import page
from mrl_jax.claims import searches
from mrl_jax.claims import training
from mrl_jax.claims import use
from mrl_jax.terminal import arguments
from mrl_jax.terminal import ending
from mrl_jax.terminal import tables
from mrl_jax.workdir import files

CLAIMS = {
  1: (accuracy.SEPARATE, accuracy.separate),
  2: (accuracy.BASELINES, accuracy.baselines),
  3: (accuracy.SHARED, accuracy.shared),
  4: (accuracy.BETWEEN, accuracy.between),
  5: (use.CLASSES, use.classes),
  6: (use.CASCADE, use.cascade),
  7: (searches.ADAPTIVE, searches.adaptive),
  8: (searches.INDEX, searches.index),
  9: (training.TUNED, training.tuned),
  10: (training.BOOST, training.boost),
  11: (use.SATURATION, use.saturation),
  12: (language.SHORTENED, language.shortened),
  13: (language.KEPT, language.kept),
  14: (language.TOWERS, language.towers),
  15: (training.SPEED, training.speed),
}


def judge(folder: pathlib.Path) -> list[page.Judged]:
  """Judges all claims by the runs below a folder.

  Raises ValueError if there are none, or one cannot be read.
  """
  evidence = evidence_lib.Evidence(evidence_lib.find(folder))
  return [
    page.Judged(number, claim, find(evidence))
    for number, (claim, find) in CLAIMS.items()
  ]


def run(folder: pathlib.Path) -> None:
  """Prints the claims, and writes them into the folder."""
  judged = judge(folder)
  content = page.table(judged)
  files.write_text(folder / 'claims.md', tables.markdown(content))
  files.write_json(folder / 'claims.json', page.records(judged))
  files.write_text(folder / 'claims.html', page.render(judged, folder))
  for x in judged:
    row = dict(zip(content.header, content.rows[x.number - 1], strict=True))
    terminal.say(f'{x.number:2} {row["verdict"]}: {row["claim"]}')
    terminal.say(f'   {row["measured"]}')
  terminal.say(f'claims: {folder / "claims.html"}')


def main(argv: Sequence[str] | None = None) -> None:
  parser = argparse.ArgumentParser(
    prog='python -m mrl_jax.claims', description=__doc__.split('\n')[0]
  )
  parser.add_argument('folder', type=arguments.path, help='where the runs are')
  args = parser.parse_args(argv)
  with ending.in_one_line():
    run(files.local(args.folder, 'folder').absolute())


if __name__ == '__main__':
  main()
