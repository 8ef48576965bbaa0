"""Matryoshka Representation Learning in JAX (arXiv 2205.13147)."""

import os
from typing import Any


def load(path: str | os.PathLike) -> Any:
  """Opens what `--mode=export` wrote, or a folder of a text encoder.

  `load(path).encode(images, dim=64)` gives embeddings, `classify` classes; see
  `interop.encoder.Encoder`. A workdir stands for the export in it. A folder of
  Hugging Face or sentence-transformers encodes texts: `load(path).encode(texts,
  dim=64)`, see `interop.text.encoder.TextEncoder`. Towers of images and texts
  have `encode`, `encode_text` and `zero_shot(images, names)`, see
  `interop.towers.encoder.TowersEncoder`.
  Raises ValueError if there is neither.
  """
  from mrl_jax.interop.text import folder

  if found := folder.find(path):
    from mrl_jax.interop.text.encoder import TextEncoder

    return TextEncoder(found)
  from mrl_jax.interop import export_folder

  if (export_folder.find(path) / export_folder.TEXT_ARTIFACT).is_file():
    from mrl_jax.interop.towers.encoder import TowersEncoder

    return TowersEncoder(path)
  from mrl_jax.interop.encoder import Encoder

  return Encoder(path)
