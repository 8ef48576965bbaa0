"""Embeds texts with an encoder of Hugging Face or sentence-transformers."""

from collections.abc import Iterator, Sequence
import functools
import os
from typing import Literal
import warnings

from flax import nnx
import jax
from jax import numpy as jnp
import numpy as np
from tokenizers import normalizers

from mrl_jax import checks
from mrl_jax import forks
from mrl_jax import values
from mrl_jax.interop.text import batches
from mrl_jax.interop.text import folder as folder_lib
from mrl_jax.interop.text import inputs
from mrl_jax.training import inference

# Texts that are tokenised and sorted at once.
_AT_ONCE = 1 << 16


class TextEncoder:
  """An encoder of texts, ready to use.

  Attributes:
    width: width of the whole embedding.
    nesting_dims: the widths that it was trained for, where the folder says so,
      else the whole width alone.
    max_tokens: texts are cut off at this number of tokens.
    tokens: turns texts into token ids.
    prompts: texts to put before those that are embedded, by name.
    default_prompt: name of the prompt that is used where none is given; ''.
    model: the `models.text.TextEncoder`.
  """

  @checks.takes(dtype=checks.dtype('float32', 'bfloat16'))
  def __init__(
    self,
    path: str | os.PathLike,
    *,
    dtype: Literal['float32', 'bfloat16'] = 'float32',
  ):
    """Opens a folder with config.json, model.safetensors and tokenizer.json.

    `dtype` is that of the computation. Raises ValueError for a folder of
    another architecture, or one whose files do not fit together.
    """
    folder = folder_lib.open_folder(path)
    self.tokens = folder.tokens()
    self.max_tokens = self.tokens.max_tokens
    self._lower = folder.modules.lower_case
    self.prompts = dict(folder.modules.prompts)
    self.default_prompt = folder.modules.default_prompt
    self.model = folder.load(jnp.dtype(dtype))
    self.width = self.model.embedding_dim
    self.nesting_dims = folder.nesting_dims() or (self.width,)
    on_cpu = jax.default_backend() == 'cpu'
    graphdef, self._state = nnx.split(
      nnx.with_attributes(self.model, by_row=on_cpu, raise_if_not_found=False)
    )

    @functools.partial(jax.jit, static_argnums=3)
    def call(state, token_RT, text_RT, num_texts):
      return nnx.merge(graphdef, state).packed(token_RT, text_RT, num_texts)

    self._call = call

  @checks.takes(dim=checks.whole(), batch_tokens=checks.whole())
  def encode(
    self,
    texts: str | bytes | Sequence[str | bytes],
    dim: int | None = None,
    *,
    prompt: str | None = None,
    prompt_name: str | None = None,
    normalize: bool = True,
    batch_tokens: int | None = None,
  ) -> np.ndarray:
    """The leading `dim` numbers of each text's embedding, float32 [N, dim].

    Texts of more than `max_tokens` tokens are cut off there, and a warning says
    how many were.

    Args:
      texts: one or several texts, as str or as bytes of UTF-8; they may be
        empty.
      dim: any width up to `width`; None stands for the whole width.
      prompt: text to put before each of them. By default it is that of
        `default_prompt`; '' stands for none.
      prompt_name: name of one of `prompts`, in place of `prompt`.
      normalize: whether to scale each prefix to length 1; zeros stay zeros.
      batch_tokens: number of tokens, with padding, that are embedded at once.

    Raises:
      ValueError: what is no text or no valid Unicode, a dim beyond the width,
        or an unknown prompt.
    """
    forks.check()
    dim = self.width if dim is None else dim
    if dim > self.width:
      raise ValueError(f'dim {dim}: must be in [1, {self.width}]')
    if batch_tokens is None:
      batch_tokens = 1024 if jax.default_backend() == 'cpu' else 32768
    texts = self._prepared(texts, self._prompt(prompt, prompt_name))
    embedding_Nd = np.zeros((len(texts), dim), np.float32)
    truncated_before = self.tokens.num_truncated
    for start in range(0, len(texts), _AT_ONCE):
      ids = self.tokens.ids(texts[start : start + _AT_ONCE])
      part = embedding_Nd[start : start + _AT_ONCE]
      batches_Sd = self._run(ids, dim, batch_tokens)
      for rows, batch_Sd in inference.one_behind(batches_Sd):
        part[rows] = np.asarray(batch_Sd)[: len(rows)]
    if num_truncated := self.tokens.num_truncated - truncated_before:
      warnings.warn(
        f'{num_truncated} of {len(texts)} texts have more than '
        f'{self.max_tokens} tokens, and were cut off there',
        stacklevel=2,
      )
    if normalize:
      norm_N1 = np.linalg.norm(embedding_Nd, axis=1, keepdims=True)
      embedding_Nd = embedding_Nd / np.where(norm_N1 > 0, norm_N1, 1)
    return embedding_Nd

  def _prepared(self, texts, prefix: str) -> list[str]:
    texts = [prefix + x for x in inputs.checked(texts)]
    if self._lower:
      lower = normalizers.Lowercase().normalize_str
      texts = [lower(x) for x in texts]
    return texts

  def _run(self, ids, dim, batch_tokens) -> Iterator[tuple]:
    for texts, *arrays, num_texts in batches.packed(ids, batch_tokens):
      embedding_SD = self._call(self._state, *arrays, num_texts)
      yield texts, embedding_SD[:, :dim]

  def _prompt(self, prompt: str | None, name: str | None) -> str:
    if prompt is not None:
      if name is not None:
        raise ValueError(f'prompt and prompt_name {name!r}: give one of them')
      (prompt,) = inputs.checked(prompt)
      return prompt
    name = self.default_prompt if name is None else name
    if name and name not in self.prompts:
      raise ValueError(
        f'prompt_name {values.shown(name)}: must be one of '
        f'{", ".join(self.prompts) or "none, as the folder has no prompts"}'
      )
    return self.prompts[name] if name else ''
