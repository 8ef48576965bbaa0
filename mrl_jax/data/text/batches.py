"""Training batches of texts as token ids."""

from collections.abc import Iterator, Sequence
import itertools
import threading

import jax
import numpy as np

from mrl_jax.data.batches import parallel
from mrl_jax.data.text import tokens as tokens_lib
from mrl_jax.data.text.examples import MISSING
from mrl_jax.data.text.examples import Texts
from mrl_jax.data.text.mix import Mix
from mrl_jax.data.text.tokens import Tokens
from mrl_jax.losses import negatives
from mrl_jax.training import sharding


class TextBatches:
  """The batch of each training step, on the devices of a mesh.

  All texts are tokenized once, at the start. A batch of N examples with K keys
  each holds, int32 but for the scores:

    query [N, L], query_length [N]             each example's first text
    key [N, K, L], key_length [N, K]           its others; length 0: none
    text [N, 1 + K]                            numbers, the same for equal texts
    score [N] or label [N]                     float32 scores; classes

  Labelled texts have no keys. Each L is the `tokens.bucket` of the longest
  text there, so that few programs are compiled.
  """

  def __init__(self, mix: Mix, tokens: Tokens, *, mesh: jax.sharding.Mesh):
    self.steps_per_epoch = mix.steps_per_epoch
    self._mix, self._mesh, self._max = mix, mesh, tokens.max_tokens
    self._columns = [_columns(source, tokens) for source in mix.sources]
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
    source, columns = self._mix.sources[which], self._columns[which]
    # All processes pad to one length, so each looks at the whole batch.
    text_NC = source.text_NC[rows_N]
    length_NC = _stack(
      x.lengths(y) for x, y in zip(columns, text_NC.T, strict=True)
    )
    mine_N = np.array(sharding.local_rows(len(rows_N), self._mesh))
    batch, parts = {}, {'query': slice(0, 1), 'key': slice(1, None)}
    for name, part in parts.items():
      if not columns[part]:
        continue
      width = tokens_lib.bucket(int(length_NC[:, part].max()), self._max)
      text_KN = text_NC[mine_N, part].T
      batch[name] = _stack(
        x.take(y, width) for x, y in zip(columns[part], text_KN, strict=True)
      )
      batch[f'{name}_length'] = length_NC[mine_N, part]
      self._cells += length_NC[:, part].size * width
    batch['query'] = batch['query'][:, 0]
    batch['query_length'] = batch['query_length'][:, 0]
    self._filled += int(length_NC.sum())
    if source.kind == 'pairs':
      batch['text'] = text_NC[mine_N]
      self._count_duplicates(text_NC)
    for name, values_N in (
      ('score', source.score_N),
      ('label', source.label_N),
    ):
      if values_N is not None:
        batch[name] = values_N[rows_N[mine_N]]
    return batch

  def _count_duplicates(self, text_NC: np.ndarray) -> None:
    there = text_NC[text_NC != MISSING]
    if len(np.unique(there)) == len(there):
      return
    counts_N = negatives.mask(text_NC).sum(1)
    most = (text_NC[:, 1:] != MISSING).sum() - 1
    with self._lock:
      self._hidden += int((most - counts_N).sum())
      self._lone += int((counts_N == 0).sum())


class _Column:
  """Token ids of the texts of a column, which all have one prompt."""

  def __init__(self, texts: Sequence[str], used: np.ndarray, ids, pad_id: int):
    """`used` are the positions of the texts to which the ids belong."""
    length_U = np.fromiter(map(len, ids), np.int64, len(ids))
    # What is read beyond the last text is masked. A missing text is the last.
    self._token_T = np.fromiter(
      itertools.chain(*ids, (pad_id,)), np.int32, int(length_U.sum()) + 1
    )
    self._start_N = np.zeros(len(texts) + 1, np.int64)
    self._start_N[used] = length_U.cumsum() - length_U
    self._length_N = np.zeros(len(texts) + 1, np.int32)
    self._length_N[used] = length_U
    self._pad_id = pad_id

  def take(self, position_B: np.ndarray, width: int) -> np.ndarray:
    """The token ids of some texts, padded, int32 [B, width]."""
    place_L = np.arange(width)
    place_BL = self._start_N[position_B][:, None] + place_L
    token_BL = self._token_T[np.minimum(place_BL, len(self._token_T) - 1)]
    is_token_BL = place_L < self.lengths(position_B)[:, None]
    return np.where(is_token_BL, token_BL, np.int32(self._pad_id))

  def lengths(self, position_B: np.ndarray) -> np.ndarray:
    """How many tokens the texts have, int32 [B]; 0 for MISSING."""
    return self._length_N[position_B]


def _columns(source: Texts, tokens: Tokens) -> list[_Column]:
  prompts = [source.prompt(c) for c in range(source.text_NC.shape[1])]
  by_prompt = {}
  for prompt in dict.fromkeys(prompts):
    used = np.unique(source.text_NC[:, [x == prompt for x in prompts]])
    used = used[used != MISSING]
    ids = tokens.ids([prompt + source.texts[i] for i in used])
    by_prompt[prompt] = _Column(source.texts, used, ids, tokens.pad_id)
  return [by_prompt[prompt] for prompt in prompts]


def _stack(columns) -> np.ndarray:
  return np.stack(list(columns), axis=1)
