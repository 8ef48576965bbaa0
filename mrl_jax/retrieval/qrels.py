"""Judged pairs of queries and rows (qrels), in BEIR's files.

A line is `query-id<tab>corpus-id<tab>grade`, below a header or not. Ids are
those of `queries.jsonl` and `corpus.jsonl`, whose line i describes row i of the
embeddings; without such files an id is the number of the row.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import gzip
import os
import pathlib
import re
import zlib

import msgspec
import numpy as np

from mrl_jax import checks
from mrl_jax.retrieval import graded
from mrl_jax.retrieval import inputs
from mrl_jax.workdir import files

_HEADER = 'query-id\tcorpus-id\tscore'


class _Line(msgspec.Struct):
  id: str = msgspec.field(name='_id')


@dataclasses.dataclass(frozen=True)
class Qrels:
  """Grades of J pairs, each pair once, ordered by query, then by row.

  Attributes:
    query_J, row_J, grade_J: int64.
    shape: the numbers of queries and rows.
  """

  query_J: np.ndarray
  row_J: np.ndarray
  grade_J: np.ndarray
  shape: tuple[int, int]

  @property
  def judged_Q(self) -> np.ndarray:
    """The queries with a judgement, ascending; others do not count."""
    return np.unique(self.query_J)

  def without(self, leave_one_out: inputs.LeaveOneOut) -> 'Qrels':
    """The same without each query's own row, as in `neighbors.search`."""
    own_Q = inputs.own_rows(leave_one_out, *self.shape)
    if own_Q is None:
      return self
    is_other_J = self.row_J != own_Q[self.query_J]
    arrays = (self.query_J, self.row_J, self.grade_J)
    return Qrels(*(x[is_other_J] for x in arrays), self.shape)

  def grades(self, ids_QK: np.ndarray) -> np.ndarray:
    """The grade of each neighbour, int64 [Q, K]; 0 without a judgement."""
    ids_QK, M = checks.as_int64('ids_QK', ids_QK), self.shape[1]
    if ids_QK.ndim != 2 or len(ids_QK) != self.shape[0]:
      raise ValueError(
        f'ids of shape {ids_QK.shape}: must be [{self.shape[0]}, K]'
      )
    if not len(self.row_J):
      return np.zeros_like(ids_QK)
    pair_J = self.query_J * M + self.row_J
    pair_QK = np.arange(len(ids_QK))[:, None] * M + ids_QK
    place_QK = np.searchsorted(pair_J, pair_QK).clip(max=len(pair_J) - 1)
    is_there_QK = (pair_J[place_QK] == pair_QK) & (ids_QK >= 0)
    return np.where(is_there_QK, self.grade_J[place_QK], 0)

  def summary(
    self, ids_QK: np.ndarray, ks: Sequence[int] = (1, 10, 25, 50, 100)
  ) -> dict[str, float]:
    """`metrics.graded_summary` over the queries with a judgement."""
    judged_Q = self.judged_Q
    count_Q = np.bincount(self.query_J, minlength=self.shape[0])
    first_Q = np.cumsum(count_Q) - count_Q
    judged_QJ = np.zeros((self.shape[0], count_Q.max(initial=0)), np.int64)
    place_J = np.arange(len(self.query_J)) - first_Q[self.query_J]
    judged_QJ[self.query_J, place_J] = self.grade_J
    return graded.graded_summary(
      self.grades(ids_QK)[judged_Q], judged_QJ[judged_Q], ks
    )


def trec_order(
  ids_QK: np.ndarray, scores_QK: np.ndarray, row_ids: Sequence[str]
) -> np.ndarray:
  """The neighbours in trec_eval's order: by score, ties by falling id.

  A search gives ties to the lower row. Arrays are those of `Neighbors`.
  """
  name_QK = np.asarray(row_ids, dtype=np.str_)[ids_QK]
  # From the lowest score and id to the highest, then reversed.
  order_QK = np.lexsort((name_QK, scores_QK))[:, ::-1]
  return np.take_along_axis(ids_QK, order_QK, axis=1)


def read_ids(path: str | os.PathLike, count: int) -> list[str]:
  """The `_id` of each line of a .jsonl or .jsonl.gz file.

  Raises ValueError, naming the line, for one that has none or an earlier one's,
  or unless there are `count` lines.
  """
  found: dict[str, None] = {}
  for name, text in _lines(path):
    one = files.parse_json(text.encode(), name, _Line).id
    if one in found:
      raise ValueError(f'{name}: an earlier line has the id {one!r}, too')
    found[one] = None
  if len(found) != count:
    raise ValueError(f'{path} has {len(found)} ids: must be {count}, the rows')
  return list(found)


def read(
  path: str | os.PathLike, query_ids: Sequence[str], row_ids: Sequence[str]
) -> Qrels:
  """Reads qrels.

  Raises ValueError, naming the line, for one that has no three columns, an id
  that is not given, a grade that is no whole number, or a pair twice.
  """
  places = [{x: i for i, x in enumerate(ids)} for ids in (query_ids, row_ids)]
  found: dict[tuple[int, int], int] = {}
  for number, (name, text) in enumerate(_lines(path)):
    columns = text.split('\t')
    if not number and columns[-1] == 'score':
      continue
    if len(columns) != 3:
      raise ValueError(
        f'{name} has {len(columns)} columns: must be query-id, corpus-id and '
        'grade, with tabs between'
      )
    for place, what, one in zip(
      places, ('query', 'row'), columns, strict=False
    ):
      if one not in place:
        raise ValueError(f'{name}: no {what} has the id {one!r}')
    pair = places[0][columns[0]], places[1][columns[1]]
    if not re.fullmatch(r'-?[0-9]{1,9}', columns[2]):
      raise ValueError(
        f'{name}: grade {columns[2]!r}: must be a whole number below 1e9'
      )
    if pair in found:
      raise ValueError(f'{name}: {columns[0]!r} and {columns[1]!r} come twice')
    found[pair] = int(columns[2])
  if not found:
    raise ValueError(f'{path} has no judgement')
  triple_J3 = np.array(
    [(*pair, found[pair]) for pair in sorted(found)], np.int64
  )
  return Qrels(*triple_J3.T, (len(query_ids), len(row_ids)))


def write(
  path: str | os.PathLike,
  qrels: Qrels,
  query_ids: Sequence[str],
  row_ids: Sequence[str],
) -> None:
  """Writes qrels with BEIR's header; raises ValueError for ids with tabs."""
  if (len(query_ids), len(row_ids)) != qrels.shape:
    raise ValueError(
      f'{len(query_ids)} and {len(row_ids)} ids: must be {qrels.shape}'
    )
  for one in (*query_ids, *row_ids):
    if not one or one.split('\t') != [one] or one.splitlines() != [one]:
      raise ValueError(f'id {one!r}: must have no tab or line break')
  lines = [
    f'{query_ids[q]}\t{row_ids[row]}\t{grade}'
    for q, row, grade in zip(
      qrels.query_J, qrels.row_J, qrels.grade_J, strict=True
    )
  ]
  files.write_text(pathlib.Path(path), '\n'.join([_HEADER, *lines]) + '\n')


def _lines(path: str | os.PathLike) -> Iterator[tuple[str, str]]:
  """Yields ('file line n', text) of each line that is not empty."""
  path = pathlib.Path(path)
  opened = gzip.open if path.suffix == '.gz' else open
  try:
    with opened(path, 'rt', encoding='utf-8-sig', newline='\n') as file:
      for number, line in enumerate(file, start=1):
        if text := line.rstrip('\r\n'):
          yield f'{path} line {number}', text
  except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
    raise ValueError(f'{path} cannot be read: {error}') from None
