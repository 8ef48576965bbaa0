"""Sets of texts that embeddings are measured on."""

from collections.abc import Sequence
import pathlib
from typing import Any, NamedTuple

import numpy as np

from mrl_jax.data.text import columns as columns_lib
from mrl_jax.data.text import sentences
from mrl_jax.data.text.columns import Column
from mrl_jax.workdir import files

KINDS = ('sts', 'pairs', 'clustering', 'classification', 'retrieval')
# Columns where none are named, the last of scores or labels.
_COLUMNS: dict[str, tuple[Column, ...]] = {
  'sts': ('sentence1', 'sentence2', 'score'),
  'pairs': ('sentence1', 'sentence2', 'label'),
  'clustering': ('text', 'label'),
  'classification': ('text', 'label'),
}
_SCORES = (0.0, 5.0)


class TextSet(NamedTuple):
  """Texts, and what is known of them.

  Attributes:
    name: its name in metrics.
    kind: one of `KINDS`.
    first: the first text of each pair, the texts to cluster or to classify, or
      queries.
    second: the second text of each pair, the texts that a classification learns
      from, or documents.
    target: scores or labels [N]; for a classification the labels of `first` and
      of `second`; for retrieval each query's relevant documents, the grade by
      the row.
  """

  name: str
  kind: str
  first: Sequence[str]
  second: Sequence[str]
  target: Any


class Entry(NamedTuple):
  """An entry of `eval_sets`, `[name=]kind:path[?columns=a,b,c&range=0,5]`.

  A classification has `&train=FILE`, with the texts that it learns from.
  """

  name: str
  kind: str
  path: str
  columns: tuple[Column, ...] = ()
  span: tuple[float, float] = _SCORES
  train: str = ''


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
  learns = kind == 'classification'
  file = 'train' if learns else ''
  options = columns_lib.options(text, query, 'eval_sets', file=file)
  entry = Entry(name or kind, kind, path, **options)
  if learns and not entry.train and path != sentences.NAME:
    raise ValueError(f'eval_sets {text!r}: needs train=FILE, to learn from')
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
  *texts, last = _read(entry, entry.path)
  if entry.kind == 'classification':
    return _classified(entry, texts[0], last, *_read(entry, entry.train))
  if entry.kind == 'sts':
    values = columns_lib.numbers(last, entry.span, entry.path)
  elif entry.kind == 'pairs':
    values = columns_lib.numbers(last, (0, 1), entry.path) > 0.5
  else:
    _, values = np.unique([str(x) for x in last], return_inverse=True)
  _check_differ(entry, entry.path, values, last)
  return TextSet(
    entry.name, entry.kind, texts[0], texts[1] if texts[1:] else (), values
  )


def _read(entry: Entry, path: str) -> list[list[Any]]:
  """The columns of a file, those of texts first."""
  found = columns_lib.read(path, entry.columns or _COLUMNS[entry.kind])
  for column in found[:-1]:
    for row, text in enumerate(column):
      if not isinstance(text, str):
        raise ValueError(
          f'{entry.name}: {text!r} in row {row} of {path} is no text'
        )
  return found


def _check_differ(entry: Entry, path: str, values, last) -> None:
  if len(np.unique(values)) < 2:
    target = (entry.columns or _COLUMNS[entry.kind])[-1]
    raise ValueError(
      f'{entry.name}: all rows of {path} have the {target} {last[0]!r}'
    )


def _classified(entry, texts, labels, train_texts, train_labels) -> TextSet:
  names = [str(x) for x in (*labels, *train_labels)]
  _, label_X = np.unique(names, return_inverse=True)
  target = label_X[: len(labels)], label_X[len(labels) :]
  _check_differ(entry, entry.train, target[1], train_labels)
  return TextSet(entry.name, entry.kind, texts, train_texts, target)


def listing(entry: Entry) -> dict[str, str]:
  """A text for each file of the set, which changes with its content."""
  if entry.path == sentences.NAME:
    return {sentences.NAME: sentences.VERSION}
  if entry.kind != 'retrieval':
    found = columns_lib.listing(entry.path)
    if entry.train:
      train = columns_lib.listing(entry.train)
      found |= {f'train/{name}': value for name, value in train.items()}
    return found
  found = {}
  for file in _retrieval_files(files.local(entry.path, 'texts')):
    found[file.name] = f'{file.stat().st_size} bytes'
  return found


def _made(entry: Entry) -> TextSet:
  name, kind = entry.name, entry.kind
  if kind == 'retrieval':
    queries, documents, relevance = sentences.searched(200, 1000, seed=1)
    return TextSet(name, kind, queries, documents, relevance)
  if kind in ('clustering', 'classification'):
    texts, labels = zip(*sentences.labelled(600, seed=2), strict=True)
    if kind == 'classification':
      train = zip(*sentences.labelled(1200, seed=6), strict=True)
      return _classified(entry, texts, labels, *train)
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
  rows = zip(*columns_lib.read(grades, (0, 1, 2)), strict=True)
  for number, (query, document, grade) in enumerate(rows, 1):
    # The first row may be one of names; a slice may lack documents.
    if number > 1 and not _is_number(grade):
      raise ValueError(
        f'{grades}, row {number}: must be query, document and grade'
      )
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
