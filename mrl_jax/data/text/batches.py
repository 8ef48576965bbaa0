"""Training batches of texts as token ids."""

from collections.abc import Iterator
import itertools
import threading

import jax
import numpy as np

from mrl_jax.data.batches import parallel
from mrl_jax.data.text import rows as rows_lib
from mrl_jax.data.text import tokens as tokens_lib
from mrl_jax.data.text.examples import MISSING
from mrl_jax.data.text.examples import Texts
from mrl_jax.data.text.mix import Mix
from mrl_jax.data.text.tokens import Tokens
from mrl_jax.losses import negatives
from mrl_jax.training import sharding


class TextBatches:
  """The batch of each training step, on the devices of a mesh.

  All texts are tokenized once, at the start. A batch of N examples of C texts
  each holds, int32 but for the scores:

    text [N, C]          numbers, the same for equal texts; MISSING: none
    token [R, T]         token ids of all texts, packed into rows
    owner [R, T]         which text a token belongs to, from 1 on; 0: padding
    score [N], label [N] or teacher [N, E]     those of `Texts.targets`

  With `parts`, part p has the examples and the rows p, p + parts, … . Its n
  examples' texts are numbered column by column: that of example i in column c
  is c * n + i + 1. Few values of R and T occur, so that few programs are
  compiled.
  """

  def __init__(
    self,
    mix: Mix,
    tokens: Tokens,
    *,
    mesh: jax.sharding.Mesh,
    parts: int = 1,
  ):
    """Takes the datasets; `parts` divides each device's share of a batch."""
    self.steps_per_epoch = mix.steps_per_epoch
    self._mix, self._mesh, self._parts = mix, mesh, parts
    self._max = tokens.max_tokens
    self._tables = [_Table(source, tokens) for source in mix.sources]
    self._lock = threading.Lock()
    self._filled = self._cells = self._hidden = self._lone = 0

  def batches(self, start_step: int) -> Iterator[dict[str, jax.Array]]:
    """The batch of each step from `start_step` on."""
    steps = ([step] for step in itertools.count(start_step))
    for (batch,) in parallel.map_batches(self._read, steps, num_threads=1):
      yield sharding.shard_batch(batch, self._mesh)

  def report(self) -> str | None:
    """A line on padding and duplicates since the last one; None: no batch."""
    with self._lock:
      if not self._cells:
        return None
      padded = 100 * (1 - self._filled / self._cells)
      line = f'{self._filled:,} tokens, {padded:.1f} % padding'
      if self._hidden:
        line += f'; {self._hidden:,} times a duplicate was no negative'
      if self._lone:
        line += f'; {self._lone:,} examples had only duplicates beside them'
      self._filled = self._cells = self._hidden = self._lone = 0
    return line

  def _read(self, step: int) -> dict[str, np.ndarray]:
    which, rows_N = self._mix.rows(step)
    source = self._mix.sources[which]
    text_NC = source.text_NC[rows_N]
    mine_N = np.array(sharding.local_rows(len(rows_N), self._mesh))
    # All processes pack the whole batch, and so agree on its shape.
    batch = self._pack(self._tables[which], text_NC)
    mine_R = np.array(sharding.local_rows(len(batch['token']), self._mesh))
    batch = {name: x[mine_R] for name, x in batch.items()}
    batch['text'] = text_NC[mine_N]
    if source.kind == 'pairs':
      self._count_duplicates(text_NC)
    return batch | source.targets(rows_N[mine_N])

  def _pack(self, table: '_Table', text_NC: np.ndarray):
    (N, C), parts = text_NC.shape, self._parts
    devices = self._mesh.shape['data']
    start_S, length_S = (x.T.ravel() for x in table.find(text_NC))
    example_S, column_S = np.tile(np.arange(N), C), np.repeat(np.arange(C), N)
    device_S, part_S = example_S // (N // devices), example_S % parts
    longest = tokens_lib.bucket(int(length_S.max()), self._max)
    rows = rows_lib.pack(length_S, device_S * parts + part_S, longest)
    row_S = (device_S * rows.number + rows.row_S) * parts + part_S
    owner_S = column_S * (N // parts) + example_S // parts + 1
    shape = devices * rows.number * parts, rows.length
    token_RT, owner_RT = np.zeros((2, *shape), np.int32)
    first_S = row_S * rows.length + rows.start_S
    token_RT.ravel()[_spread(first_S, length_S)] = table.token_X[
      _spread(start_S, length_S)
    ]
    owner_RT.ravel()[_spread(first_S, length_S)] = np.repeat(owner_S, length_S)
    with self._lock:
      self._filled += int(length_S.sum())
      self._cells += token_RT.size
    return {'token': token_RT, 'owner': owner_RT}

  def _count_duplicates(self, text_NC: np.ndarray) -> None:
    there = text_NC[text_NC != MISSING]
    if len(np.unique(there)) == len(there):
      return
    counts_N = negatives.mask(text_NC).sum(1)
    most = (text_NC[:, 1:] != MISSING).sum() - 1
    with self._lock:
      self._hidden += int((most - counts_N).sum())
      self._lone += int((counts_N == 0).sum())


class _Table:
  """Token ids of the texts of a dataset, one after another."""

  def __init__(self, source: Texts, tokens: Tokens):
    """Tokenizes each text once for each prompt that it has in a column."""
    columns = source.text_NC.shape[1]
    prompts = [source.prompt(c) for c in range(columns)]
    # By column and text; the last place is that of a missing one.
    shape = columns, len(source.texts) + 1
    self._start_CX, self._length_CX = np.zeros((2, *shape), np.int64)
    found, total = [], 0
    for prompt in dict.fromkeys(prompts):
      same = [c for c in range(columns) if prompts[c] == prompt]
      used = np.unique(source.text_NC[:, same])
      used = used[used != MISSING]
      ids = tokens.ids([prompt + source.texts[i] for i in used])
      length_U = np.fromiter(map(len, ids), np.int64, len(ids))
      for c in same:
        self._start_CX[c, used] = total + length_U.cumsum() - length_U
        self._length_CX[c, used] = length_U
      total += int(length_U.sum())
      flat = itertools.chain.from_iterable(ids)
      found.append(np.fromiter(flat, np.int32, int(length_U.sum())))
    self.token_X = np.concatenate(found)

  def find(self, text_NC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each text begins in `token_X`, and its length, both [N, C]."""
    column_1C = np.arange(text_NC.shape[1])[None]
    return (
      self._start_CX[column_1C, text_NC],
      self._length_CX[column_1C, text_NC],
    )


def _spread(start_S: np.ndarray, length_S: np.ndarray) -> np.ndarray:
  """The places from each start on, as many as its length, in a row."""
  before_S = length_S.cumsum() - length_S
  offset = np.repeat(start_S - before_S, length_S)
  return offset + np.arange(len(offset))
