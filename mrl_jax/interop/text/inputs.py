"""Checks the texts that a user hands over."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mrl_jax import values


def checked(texts: str | bytes | Sequence[str | bytes]) -> list[str]:
  """One or several texts, as str or as bytes of UTF-8, as a list of str.

  Empty texts are texts, and NUL is a character like others. Raises ValueError,
  with the text's number, for what is no text, or no valid Unicode.
  """
  if isinstance(texts, str | bytes):
    texts = [texts]
  if isinstance(texts, np.ndarray):
    texts = texts.tolist()
  if not isinstance(texts, list | tuple):
    raise values.refusal('texts', texts, 'a text or a list of texts')
  return [_checked(number, x) for number, x in enumerate(texts)]


def _checked(number: int, text: Any) -> str:
  if not isinstance(text, str | bytes):
    raise values.refusal(f'text {number}', text, 'str, or bytes of UTF-8')
  try:
    if isinstance(text, bytes):
      return text.decode('utf-8')
    if not text.isascii():
      text.encode('utf-8')  # Raises for halves of surrogate pairs.
    return text
  except UnicodeError as error:
    raise ValueError(
      f'text {number} is no valid Unicode: {error.reason} at {error.start}'
    ) from None
