"""Training batches of pictures, each with one of its captions."""

import numpy as np

from mrl_jax.data.batches.stream import Place
from mrl_jax.data.batches.stream import StreamBatches
from mrl_jax.data.pairs.sources import Pairs
from mrl_jax.data.text.tokens import Tokens

# Tells the captions' random numbers from those of the crops.
_CAPTIONS = 1


class PairBatches(StreamBatches):
  """Batches of images as of `StreamBatches`, with the tokens of a caption each.

  A batch of N pairs has, beside the images:

    token [N, L]     int32 token ids, padded to the tokenizer's `max_tokens`
    length [N]       int32 number of tokens
    label [N]        int32 number of the picture

  Which caption of a picture is read is a pure function of (seed, position), as
  its crop is. A damaged picture is replaced by the next one, with its caption.
  """

  def __init__(self, source: Pairs, *args, tokens: Tokens, **options):
    """Takes the arguments of `StreamBatches`, and the texts' tokenizer."""
    super().__init__(source, *args, **options)
    counts_X = np.array([len(x) for x in source.captions])
    self._count_X, self._first_X = counts_X, counts_X.cumsum() - counts_X
    ids = tokens.ids([text for x in source.captions for text in x])
    self._pad, self._width = tokens.pad_id, tokens.max_tokens
    self._length_C = np.fromiter(map(len, ids), np.int32, len(ids))
    self._start_C = self._length_C.cumsum(dtype=np.int64) - self._length_C
    self._token = np.fromiter(
      (x for row in ids for x in row), np.int32, int(self._length_C.sum())
    )

  def _positions(self, step: int) -> list[Place]:
    places = super()._positions(step)
    epoch, batch = places[0].epoch, places[0].batch
    position_N = np.array([place.position for place in places])
    batch.arrays['number'] = _numbers(self._seed, epoch, position_N)
    return places

  def _stack(self, found) -> dict[str, np.ndarray]:
    batch = super()._stack(found)
    picture_N = batch['label']
    number_N = batch.pop('number')
    choice_N = (number_N * self._count_X[picture_N]).astype(np.int64)
    caption_N = self._first_X[picture_N] + choice_N
    length_N = self._length_C[caption_N]
    place_NL = np.arange(self._width)[None]
    is_token_NL = place_NL < length_N[:, None]
    index_NL = self._start_C[caption_N][:, None] + place_NL
    token_NL = np.full(index_NL.shape, self._pad, np.int32)
    token_NL[is_token_NL] = self._token[index_NL[is_token_NL]]
    return batch | {'token': token_NL, 'length': length_N}


def _numbers(seed: int, epoch: int, position_N: np.ndarray) -> np.ndarray:
  """A number in [0, 1) for each position of an epoch."""
  first = int(position_N.min())
  key = np.random.SeedSequence((seed, epoch, _CAPTIONS)).generate_state(
    2, np.uint64
  )
  # Philox makes four numbers for each value of its counter.
  philox = np.random.Philox(key=key, counter=[first, 0, 0, 0])
  count = int(position_N.max()) - first + 1
  return np.random.Generator(philox).random((count, 4))[position_N - first, 0]
