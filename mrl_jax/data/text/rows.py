"""Packs the texts of a batch into rows, so that little is padding."""

import bisect
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# The shortest row: shorter ones would hold few texts.
_SHORTEST = 64
# Numbers of rows between a power of two and the next, for few programs.
_SIZES = 8


class Rows(NamedTuple):
  """Where the texts of a batch lie.

  Attributes:
    number: rows of each group.
    length: tokens of a row.
    row_S: the row of each text in its group.
    start_S: the place of its first token there.
  """

  number: int
  length: int
  row_S: np.ndarray
  start_S: np.ndarray


def pack(length_S: np.ndarray, group_S: np.ndarray, longest: int) -> Rows:
  """Finds a row for each text of S; all groups get as many rows.

  Args:
    length_S: the number of tokens of each text, 0 for one that is not there.
    group_S: the group of each, from 0 on; a row has texts of one group.
    longest: no text has more tokens.
  """
  length = max(longest, _SHORTEST)
  row_S, start_S = np.zeros((2, len(length_S)), np.int64)
  most = 1
  for group in range(int(group_S.max()) + 1):
    members = np.flatnonzero((group_S == group) & (length_S > 0))
    # Longest first, each into the fullest row that has room.
    order = members[np.argsort(-length_S[members], kind='stable')]
    rows, starts = _fit(length_S[order].tolist(), length)
    row_S[order], start_S[order] = rows, starts
    most = max(most, max(rows, default=0) + 1)
  return Rows(_rounded(most), length, row_S, start_S)


def _fit(lengths: Sequence[int], room: int) -> tuple[list[int], list[int]]:
  """The row and the start of each text, by best fit."""
  free: list[tuple[int, int]] = []  # What is left of each row, and its number.
  rows, starts = [], []
  for length in lengths:
    place = bisect.bisect_left(free, (length, -1))
    left, row = free.pop(place) if place < len(free) else (room, len(free))
    rows.append(row)
    starts.append(room - left)
    bisect.insort(free, (left - length, row))
  return rows, starts


def _rounded(count: int) -> int:
  """The next of eight numbers between a power of two and the next one."""
  step = max(1, (1 << (count.bit_length() - 1)) // _SIZES)
  return -(-count // step) * step
