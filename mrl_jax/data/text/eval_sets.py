"""Sets of texts that embeddings are measured on."""

from collections.abc import Sequence
import csv
import pathlib
from typing import Any, NamedTuple

import numpy as np

from mrl_jax.data.text import columns as columns_lib
from mrl_jax.data.text import sentences
from mrl_jax.data.text.columns import Column
from mrl_jax.workdir import files

KINDS = ('sts', 'pairs', 'clustering', 'retrieval')
# Columns where none are named, the last of scores or labels.
_COLUMNS: dict[str, tuple[Column, ...]] = {
  'sts': ('sentence1', 'sentence2', 'score'),
  'pairs': ('sentence1', 'sentence2', 'label'),
  'clustering': ('text', 'label'),
}
_SCORES = (0.0, 5.0)


class TextSet(NamedTuple):
  """Texts, and what is known of them.

  Attributes:
    name: its name in metrics.
    kind: one of `KINDS`.
    first: the first text of each pair, the texts of a clustering, or queries.
    second: the second text of each pair, or documents.
    target: scores or labels [N]; for retrieval each query's relevant documents,
      the grade by the row.
  """

  name: str
  kind: str
  first: Sequence[str]
  second: Sequence[str]
  target: Any


class Entry(NamedTuple):
  """An entry of `eval_sets`, `[name=]kind:path[?columns=a,b,c&range=0,5]`."""

  name: str
  kind: str
  path: str
  columns: tuple[Column, ...] = ()
  span: tuple[float, float] = _SCORES


def parse(text: str) -> Entry:
  """Parses an entry of `eval_sets`; raises ValueError if it is none.

  Its name is the kind if it has none of its own. Columns that are numbers are
  positions, for files without a line of names.
  """
  head, _, query = text.partition('?')
  before, colon, path = head.partition(':')
  name, equals, kind = before.rpartition('=')
  if not colon or kind not in KINDS or not path or (equals and not name):
    raise ValueError(
      f'eval_sets {text!r}: must be [name=]kind:path, the kind one of {KINDS}'
    )
  if '/' in name or '@' in name:
    raise ValueError(f'eval_sets {text!r}: a name must have no / and no @')
  options = columns_lib.options(text, query, 'eval_sets')
  entry = Entry(name or kind, kind, path, **options)
  wanted = len(_COLUMNS.get(kind, ()))
  if entry.columns and len(entry.columns) != wanted:
    raise ValueError(
      f'eval_sets {text!r}: must have {wanted} columns for {kind}'
    )
  return entry


def check(entries: Sequence[str]) -> None:
  """Raises ValueError for an entry that cannot be parsed, or a name twice."""
  names = [parse(text).name for text in entries]
  for name in names:
    if names.count(name) > 1:
      raise ValueError(
        f'eval_sets: {name!r} stands twice: give names, as in mine={entries[0]}'
      )


def open_set(entry: Entry) -> TextSet:
  """Opens a set. Raises ValueError, with its name, if it cannot be read."""
  if entry.path == sentences.NAME:
    return _made(entry)
  if entry.kind == 'retrieval':
    return _open_retrieval(entry)
  *names, target = entry.columns or _COLUMNS[entry.kind]
  found = columns_lib.read(entry.path, [*names, target])
  *texts, last = found
  for column in texts:
    for row, text in enumerate(column):
      if not isinstance(text, str):
        raise ValueError(
          f'{entry.name}: {text!r} in row {row} of {entry.path} is no text'
        )
  if entry.kind == 'sts':
    values = columns_lib.numbers(last, entry.span, entry.path)
  elif entry.kind == 'pairs':
    values = columns_lib.numbers(last, (0, 1), entry.path) > 0.5
  else:
    _, values = np.unique([str(x) for x in last], return_inverse=True)
  if len(np.unique(values)) < 2:
    raise ValueError(
      f'{entry.name}: all rows of {entry.path} have the {target} {last[0]!r}'
    )
  return TextSet(
    entry.name, entry.kind, texts[0], texts[1] if texts[1:] else (), values
  )


def listing(entry: Entry) -> dict[str, str]:
  """A text for each file of the set, which changes with its content."""
  if entry.path == sentences.NAME:
    return {sentences.NAME: sentences.VERSION}
  path = files.local(entry.path, 'texts')
  if entry.kind != 'retrieval':
    return columns_lib.listing(path)
  found = {}
  for file in _retrieval_files(path):
    found[file.name] = f'{file.stat().st_size} bytes'
  return found


def _made(entry: Entry) -> TextSet:
  name, kind = entry.name, entry.kind
  if kind == 'retrieval':
    queries, documents, relevance = sentences.searched(200, 1000, seed=1)
    return TextSet(name, kind, queries, documents, relevance)
  if kind == 'clustering':
    texts, labels = zip(*sentences.labelled(600, seed=2), strict=True)
    _, label_N = np.unique(labels, return_inverse=True)
    return TextSet(name, kind, texts, (), label_N)
  a, b, score = zip(*sentences.scored(1000, seed=3), strict=True)
  score_N = np.array(score)
  # Pairs that do the same, and differ in one thing at most.
  return TextSet(name, kind, a, b, score_N if kind == 'sts' else score_N >= 4)


def _retrieval_files(path: pathlib.Path) -> list[pathlib.Path]:
  """The corpus, the queries and the grades of a folder in BEIR's layout."""
  found = []
  for names in (
    ('corpus.jsonl', 'corpus.jsonl.gz'),
    ('queries.jsonl', 'queries.jsonl.gz'),
    ('qrels.tsv', 'qrels/test.tsv'),
  ):
    there = [path / name for name in names if (path / name).is_file()]
    if not there:
      raise ValueError(f'retrieval {path}: has no {" or ".join(names)}')
    found.append(there[0])
  return found


def _open_retrieval(entry: Entry) -> TextSet:
  path = files.local(entry.path, 'texts')
  corpus, queries, grades = _retrieval_files(path)
  ids, texts, titles = columns_lib.read(
    corpus, ('_id', 'text', 'title'), optional=1
  )
  documents = [
    f'{title or ""} {text}'.strip()
    for title, text in zip(titles, texts, strict=True)
  ]
  row_of = {str(name): row for row, name in enumerate(ids)}
  query_ids, query_texts = columns_lib.read(queries, ('_id', 'text'))
  relevance: dict[str, dict[int, float]] = {}
  with open(grades, encoding='utf-8', newline='') as file:
    for number, row in enumerate(csv.reader(file, delimiter='\t')):
      if len(row) != 3 or (number and not _is_number(row[2])):
        raise ValueError(
          f'{grades}, line {number + 1}: must be query, document and grade'
        )
      query, document, grade = row
      # The first line may be one of names; a slice may lack documents.
      if _is_number(grade) and float(grade) > 0 and document in row_of:
        relevance.setdefault(query, {})[row_of[document]] = float(grade)
  asked = [
    (text, relevance[str(name)])
    for name, text in zip(query_ids, query_texts, strict=True)
    if str(name) in relevance
  ]
  if not asked:
    raise ValueError(f'{grades}: no query has a relevant document')
  first, target = zip(*asked, strict=True)
  return TextSet(entry.name, entry.kind, first, documents, target)


def _is_number(text: str) -> bool:
  try:
    float(text)
  except ValueError:
    return False
  return True
