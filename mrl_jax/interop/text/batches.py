"""Packs texts of all lengths into rows of few lengths, with little padding."""

import bisect
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

# The shortest rows that many texts are packed into.
_SHORTEST = 64
# A batch has room for one text in this many of its tokens.
_LEAST = 8


class Batch(NamedTuple):
  """A batch of packed texts.

  Attributes:
    texts: numbers of the texts, in their order in the batch.
    token_RT: token ids, int32 [R, T].
    text_RT: number of each token's text in the batch, from 1 on; 0: padding.
    num_texts: number of texts that there is room for.
  """

  texts: np.ndarray
  token_RT: np.ndarray
  text_RT: np.ndarray
  num_texts: int


def packed(ids: Sequence[Sequence[int]], batch_tokens: int) -> Iterator[Batch]:
  """Yields batches of about `batch_tokens` tokens with padding.

  A batch's rows are as long as its longest text, rounded up to a power of two
  or one and a half. Rows are filled with the longest texts first, then with the
  longest that still fit, so that programs are compiled for few shapes. Texts
  without tokens are left out.
  """
  left = _Left(ids)
  while left:
    least = max(left.longest, min(left.num_tokens, _SHORTEST))
    length = next(x for x in _lengths() if x >= least)
    most_rows = max(1, batch_tokens // length)
    room = max(1, most_rows * length // _LEAST)
    rows, count = [], 0
    while left and len(rows) < most_rows and count < room:
      rows.append(left.take(length, room - count))
      count += len(rows[-1])
    # Fewer rows than that are padded to a power of two.
    num_rows = min(most_rows, 1 << (len(rows) - 1).bit_length())
    yield _batch(ids, rows, (num_rows, length))


def _batch(
  ids: Sequence[Sequence[int]],
  rows: Sequence[Sequence[int]],
  shape: tuple[int, int],
) -> Batch:
  token_RT, text_RT = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
  texts = [i for row in rows for i in row]
  number = 0
  for r, row in enumerate(rows):
    end = 0
    for i in row:
      number += 1
      start, end = end, end + len(ids[i])
      token_RT[r, start:end] = ids[i]
      text_RT[r, start:end] = number
  # In a batch of few rows there may be more texts.
  room = max(token_RT.size // _LEAST, 1 << (number - 1).bit_length())
  return Batch(np.array(texts, int), token_RT, text_RT, room)


class _Left:
  """The texts that are in no batch yet, by their lengths."""

  def __init__(self, ids: Sequence[Sequence[int]]):
    self._by_length: dict[int, list[int]] = {}
    for i in reversed(range(len(ids))):
      self._by_length.setdefault(len(ids[i]), []).append(i)
    self._by_length.pop(0, None)
    self._lengths = sorted(self._by_length)
    self.num_tokens = sum(map(len, ids))

  def __bool__(self) -> bool:
    return bool(self._lengths)

  @property
  def longest(self) -> int:
    return self._lengths[-1]

  def take(self, room: int, most: int) -> list[int]:
    """Takes texts for a row of this length, and at most so many."""
    row = []
    while len(row) < most:
      place = bisect.bisect(self._lengths, room) - 1
      if place < 0:
        break
      length = self._lengths[place]
      row.append(self._by_length[length].pop())
      room -= length
      self.num_tokens -= length
      if not self._by_length[length]:
        del self._lengths[place]
    return row


def _lengths() -> Iterator[int]:
  """16, 32, 64, 96, 128, 192, 256, …"""
  yield from (16, 32)
  length = 64
  while True:
    yield length
    yield length * 3 // 2
    length *= 2
