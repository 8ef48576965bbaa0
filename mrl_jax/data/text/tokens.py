"""Texts to token ids, by a tokenizer.json of Hugging Face's `tokenizers`."""

import collections
from collections.abc import Iterable, Sequence
import os
import pathlib
from typing import Any

import numpy as np

# Names of the padding token where a tokenizer.json has no padding.
_PADS = ('[PAD]', '<pad>', '<|padding|>')
# The shortest padded length. Each further one is 4/3 or 3/2 of the one before.
_SHORTEST = 16
# The longest ending of a word among the pieces, in letters.
_ENDING = 4
# Texts that are tokenized at once.
_CHUNK = 4096


def bucket(length: int, max_tokens: int) -> int:
  """The length to which texts of up to `length` tokens are padded.

  It is a power of two, or one and a half: programs are compiled for few.
  """
  size = _SHORTEST
  while size < length:
    is_power = not size & (size - 1)
    size = size * 3 // 2 if is_power else size * 4 // 3
  return min(size, max_tokens)


class Tokens:
  """Turns texts into token ids that are padded on the right.

  Truncation and padding are these, whatever the tokenizer.json says.

  Attributes:
    max_tokens: texts are cut to this number of tokens, special ones included.
    vocabulary_size: token ids are below this number.
    pad_id: the token id that padding has.
    num_texts: texts seen so far.
    num_truncated: texts that were cut so far.
  """

  def __init__(self, tokenizer_json: str | os.PathLike, max_tokens: int):
    """Reads the file. Raises ValueError if it is missing or is none."""
    import tokenizers

    self.path = pathlib.Path(tokenizer_json)
    if not self.path.is_file():
      raise ValueError(f'tokenizer {self.path}: there is no such file')
    try:
      tokenizer = tokenizers.Tokenizer.from_file(str(self.path))
    except Exception as error:  # The library raises this class itself.
      raise ValueError(
        f'tokenizer {self.path}: is no tokenizer.json: {error}'
      ) from None
    padding = tokenizer.padding or {}
    known = (tokenizer.token_to_id(name) for name in _PADS)
    named = next((x for x in known if x is not None), 0)
    self.pad_id = int(padding.get('pad_id', named))
    tokenizer.no_padding()
    special = tokenizer.num_special_tokens_to_add(False)
    if max_tokens <= special:
      raise ValueError(
        f'max_tokens {max_tokens}: {self.path} adds {special} special ones'
      )
    tokenizer.enable_truncation(max_tokens)
    self._tokenizer = tokenizer
    self.max_tokens = max_tokens
    ids = tokenizer.get_vocab(with_added_tokens=True).values()
    self.vocabulary_size = max(ids, default=-1) + 1
    self.num_texts = self.num_truncated = 0

  def ids(self, texts: Sequence[str]) -> list[list[int]]:
    """The token ids of each text, cut to `max_tokens`."""
    found = []
    for start in range(0, len(texts), _CHUNK):
      chunk = list(texts[start : start + _CHUNK])
      for encoding in self._tokenizer.encode_batch_fast(chunk):
        self.num_truncated += bool(encoding.overflowing)
        found.append(encoding.ids)
    self.num_texts += len(texts)
    return found

  def __call__(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Token ids, int32 [N, L], and where they are no padding, bool [N, L].

    L is the `bucket` of the longest text.
    """
    return self.pad(self.ids(texts))

  def pad(self, ids: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Pads token ids to one length, as a call does."""
    length_N = np.fromiter(map(len, ids), np.int64, len(ids))
    width = bucket(int(length_N.max(initial=0)), self.max_tokens)
    mask_NL = np.arange(width) < length_N[:, None]
    token_NL = np.full(mask_NL.shape, self.pad_id, np.int32)
    token_NL[mask_NL] = np.fromiter(
      (x for row in ids for x in row), np.int32, int(length_N.sum())
    )
    return token_NL, mask_NL


def make_tokenizer(
  texts: Iterable[str], vocabulary_size: int, path: str | os.PathLike
) -> None:
  """Makes a WordPiece tokenizer of lower-case texts, and writes it.

  Its pieces are all letters, and the most frequent words and endings of words.
  It adds no special tokens. The same texts give the same file, which the
  library's own trainers do not promise. Raises ValueError if there are no
  words.
  """
  import tokenizers
  from tokenizers import decoders
  from tokenizers import models
  from tokenizers import normalizers
  from tokenizers import pre_tokenizers

  normalizer: Any = normalizers.BertNormalizer(lowercase=True)
  splitter: Any = pre_tokenizers.BertPreTokenizer()
  words = collections.Counter(
    word
    for text in texts
    for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))
  )
  if not words:
    raise ValueError('the texts to make a tokenizer of have no words')
  pieces, letters = collections.Counter(words), set()
  for word, count in words.items():
    letters |= {word[0], *(f'##{letter}' for letter in word[1:])}
    for size in range(2, min(_ENDING, len(word) - 1) + 1):
      pieces[f'##{word[-size:]}'] += count
  frequent = sorted(pieces, key=lambda piece: (-pieces[piece], piece))
  ordered = dict.fromkeys(('[PAD]', '[UNK]', *sorted(letters), *frequent))
  vocabulary = {x: i for i, x in enumerate([*ordered][:vocabulary_size])}
  tokenizer = tokenizers.Tokenizer(
    models.WordPiece(vocabulary, unk_token='[UNK]')
  )
  tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
  tokenizer.decoder = decoders.WordPiece()
  pathlib.Path(path).write_text(tokenizer.to_str(), encoding='utf-8')
