"""The datasets of texts that a config trains on, each with its objective."""

from typing import Any, NamedTuple

from ml_collections import ConfigDict

from mrl_jax.data.text import columns as columns_lib
from mrl_jax.data.text.columns import Column

# The kind of examples that each objective trains on.
KINDS = {
  'contrastive': 'pairs',
  'cosent': 'scored',
  'angle': 'scored',
  'distillation': 'taught',
  'classification': 'labelled',
}


class Entry(NamedTuple):
  """A dataset to train on; see `examples.open_texts`."""

  objective: str
  path: str
  columns: tuple[Column, ...]
  target: Column
  span: tuple[float, float]
  teacher: str


def entries(config: ConfigDict) -> list[Entry]:
  """The config's dataset, and those of `text.more`.

  The latter are `[objective:]path[?columns=a,b,score&range=0,5]`, with the
  fields of `text` where they say nothing; the last column is that of scores or
  labels. Those of distillation may have `teacher=FILE`. Raises ValueError for
  an entry that is none, and for objectives that one training cannot have.
  """
  text = config.text
  columns, span = tuple(text.columns), tuple(text.score_range)
  first = text.objective, config.dataset, columns, text.target, span
  found = [Entry(*first, text.teacher)]
  for more in text.more:
    found.append(_parsed(more, found[0]))
  names = {entry.objective for entry in found}
  for one, other in (('classification', None), ('cosent', 'angle')):
    if one in names and (other in names if other else len(names) > 1):
      raise ValueError(
        f'text.more {(*text.more,)}: {", ".join(sorted(names))} cannot be in '
        'one training'
      )
  return found


def of_scores(config: ConfigDict) -> Any:
  """The objective of the scored pairs: angle where an entry says so."""
  names = {entry.objective for entry in entries(config)}
  return 'angle' if 'angle' in names else 'cosent'


def _parsed(text: str, first: Entry) -> Entry:
  head, _, query = text.partition('?')
  objective, colon, path = head.partition(':')
  if not colon or objective not in KINDS:
    objective, path = first.objective, head
  if not path:
    raise ValueError(f'text.more {text!r}: must be [objective:]path')
  kind = KINDS[objective]
  file = 'teacher' if kind == 'taught' else ''
  options = columns_lib.options(text, query, 'text.more', file=file)
  columns, target = options.get('columns', first.columns), first.target
  if 'columns' in options and kind in ('scored', 'labelled'):
    *columns, target = columns
  span = options.get('span', first.span)
  teacher = options.get('teacher', first.teacher)
  return Entry(objective, path, tuple(columns), target, span, teacher)
