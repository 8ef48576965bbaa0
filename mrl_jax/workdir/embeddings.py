"""The exported embeddings of a split: two .npy files and a manifest."""

import hashlib
import pathlib
import re
from typing import Any

import numpy as np

from mrl_jax.workdir import npy


def paths(folder: pathlib.Path, split: str) -> tuple[pathlib.Path, ...]:
  """The paths of a split's embeddings, labels and manifest."""
  stem = split
  if not re.fullmatch(r'[\w.+-]+', split):
    # TFDS splits may hold brackets; train[:50%] is not train[50%:].
    digest = hashlib.sha256(split.encode()).hexdigest()[:6]
    stem = re.sub(r'[^\w.+-]+', '_', split).strip('_') + f'-{digest}'
  return tuple(folder / f'{stem}{end}' for end in ('-x.npy', '-y.npy', '.json'))


def load(
  folder: pathlib.Path, split: str
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
  """Loads embeddings [N, D] (a float32 memmap), int32 labels [N] and manifest.

  Raises ValueError if a file is missing, is not as it was written, or disagrees
  with the others.
  """
  *array_paths, manifest_path = paths(folder, split)

  def expected(manifest):
    count, dim = manifest.get('count'), manifest.get('dim')
    return [((count, dim), 'float32'), ((count,), 'int32')]

  (embedding_ND, label_N), manifest = npy.load_with_manifest(
    manifest_path, array_paths, expected, 'run --mode=embed'
  )
  return embedding_ND, np.array(label_N), manifest
