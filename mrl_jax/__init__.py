"""Matryoshka Representation Learning in JAX (arXiv 2205.13147)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from mrl_jax.interop.encoder import Encoder


def load(path: str | os.PathLike) -> Encoder:
  """Opens what `--mode=export` wrote, or a workdir with it.

  `load(path).encode(images, dim=64)` gives embeddings, `classify` classes; see
  `encode.Encoder`.
  Raises ValueError if there is none.
  """
  from mrl_jax.interop.encoder import Encoder

  return Encoder(path)
