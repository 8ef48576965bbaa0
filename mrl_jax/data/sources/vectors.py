"""A dataset of vectors in place of images: rows of .npy files with labels."""

import pathlib

import numpy as np
import xxhash

from mrl_jax.retrieval import row_files
from mrl_jax.workdir import embeddings as embeddings_lib
from mrl_jax.workdir import files

# `Vectors.sample` draws runs of this many rows, which lie together on disk.
_RUN = 16
# Rows that the digest in `Vectors.listing` is taken of.
_DIGESTED = 64


class Vectors:
  """The rows [N, D] of a split, which stay on disk until they are read.

  D is `width`; the labels `label_N`, int32, are below `num_classes`.
  """

  def __init__(
    self,
    row_ND: np.ndarray,
    label_N: np.ndarray,
    *,
    index_N: np.ndarray | None = None,
    num_classes: int,
    path: pathlib.Path,
  ):
    """Takes all rows of a file; `index_N` are those in the split, None: all.

    Raises ValueError for a label that is neither in [0, num_classes) nor -1,
    which stands for a row that does not count.
    """
    wrong_N = (label_N < -1) | (label_N >= num_classes)
    if wrong_N.any():
      row = int(wrong_N.argmax())
      raise ValueError(
        f'label {label_N[row]} of row {row} of {path}: must be in '
        f'[0, {num_classes}), the classes that are trained, or -1'
      )
    self._row_ND = row_ND
    self._index_N = np.arange(len(row_ND)) if index_N is None else index_N
    self._path = path
    self.label_N = label_N[self._index_N].astype(np.int32)
    self.num_classes = num_classes
    self.width = row_ND.shape[1]
    self.name, self.version = 'vectors', ''

  def __len__(self) -> int:
    return len(self._index_N)

  @property
  def class_names(self) -> tuple[str, ...]:
    """The numbers of the classes: vectors come without names."""
    return tuple(map(str, range(self.num_classes)))

  def listing(self) -> dict[str, str]:
    """The shape, a digest of rows spread over all, and one of the labels."""
    some = np.linspace(0, len(self) - 1, _DIGESTED).astype(int)
    row_SD = np.asarray(self._row_ND[self._index_N[some]])
    digests = [
      xxhash.xxh3_64_hexdigest(np.ascontiguousarray(x).tobytes())
      for x in (row_SD, self.label_N)
    ]
    shape = f'{len(self)} x {self.width} {row_SD.dtype.name}'
    return {
      'rows': f'{shape} {digests[0]}',
      'labels': f'{len(self)} {digests[1]}',
    }

  def read(self, positions_B: np.ndarray) -> np.ndarray:
    """Reads rows of the split, float32 [B, D]; ValueError if not finite."""
    index_B = self._index_N[positions_B]
    row_BD = np.asarray(self._row_ND[index_B], np.float32)
    finite_B = np.isfinite(row_BD).all(1)
    if not finite_B.all():
      row = index_B[finite_B.argmin()]
      raise ValueError(f'row {row} of {self._path} is not finite')
    return row_BD

  def sample(self, count: int, *, seed: int) -> np.ndarray:
    """Reads about `count` rows from all over the split, or all there are."""
    positions_N = np.arange(len(self))
    if count < len(self):
      starts = np.random.default_rng(seed).choice(
        len(self) // _RUN, count // _RUN, replace=False
      )
      positions_N = (np.sort(starts)[:, None] * _RUN + np.arange(_RUN)).ravel()
    return self.read(positions_N)


def open_vectors(
  embeddings: str,
  split: str,
  *,
  labels: str = '',
  train_split: str = 'train',
  num_classes: int = 0,
) -> Vectors:
  """Opens a split of vectors that were computed elsewhere.

  `embeddings` is a folder of `<split>-x.npy`, floats [N, D], and of
  `<split>-y.npy`, integers [N], as the stage embed writes them, or a workdir
  with such a folder; or one .npy file of rows, with its `labels` in another. Of
  one file the split `val` is a random tenth of the rows, and `train` the
  others. `num_classes` of 0 means one more than the largest label of
  `train_split`.

  Raises ValueError if there is no such split, or its arrays do not fit.
  """
  path = files.local(embeddings, 'embeddings')
  if path.is_file():
    return _part(path, labels, split, num_classes)
  if not path.is_dir():
    raise ValueError(f'embeddings {embeddings}: no such folder or .npy file')
  if labels:
    raise ValueError(
      f'labels {labels!r}: must be empty where embeddings is a folder'
    )
  if (path / 'embeddings').is_dir():
    path = path / 'embeddings'
  pairs = {}
  for name in {train_split, split}:
    x_path, y_path, _ = embeddings_lib.paths(path, name)
    if not x_path.is_file():
      there = sorted(
        x.name.removesuffix('-x.npy') for x in path.glob('*-x.npy')
      )
      raise ValueError(
        f'split {name!r} of {path}: there is no {x_path.name}; set train_split '
        f'and eval_split, of {there}'
      )
    row_ND, _ = row_files.load_rows(x_path)
    pairs[name] = row_ND, row_files.load_labels(y_path, len(row_ND)), x_path
  (train_ND, train_label_N, train_path), (row_ND, label_N, x_path) = (
    pairs[train_split],
    pairs[split],
  )
  if row_ND.shape[1] != train_ND.shape[1]:
    raise ValueError(
      f'{x_path} has rows of width {row_ND.shape[1]}, {train_path} of '
      f'{train_ND.shape[1]}: must be the same'
    )
  num_classes = num_classes or _num_classes(train_label_N, train_path)
  return Vectors(row_ND, label_N, num_classes=num_classes, path=x_path)


def _part(
  path: pathlib.Path, labels: str, split: str, num_classes: int
) -> Vectors:
  if not labels:
    raise ValueError(
      f'labels is empty: {path} is a file, and needs one of its labels'
    )
  if split not in ('train', 'val'):
    raise ValueError(f"split {split!r} of {path}: must be 'train' or 'val'")
  row_ND, _ = row_files.load_rows(path)
  label_N = row_files.load_labels(labels, len(row_ND))
  # Rows added at the end move no other to another split.
  is_held_out_N = np.random.default_rng(0).random(len(row_ND)) < 0.1
  (index_N,) = np.nonzero(is_held_out_N == (split == 'val'))
  if not len(index_N):
    raise ValueError(f'{path} has {len(row_ND)} rows: too few to hold out some')
  return Vectors(
    row_ND,
    label_N,
    index_N=index_N,
    num_classes=num_classes or _num_classes(label_N, path),
    path=path,
  )


def _num_classes(label_N: np.ndarray, path: pathlib.Path) -> int:
  num_classes = int(label_N.max()) + 1
  if num_classes < 1:
    raise ValueError(f'{path}: every row has label -1, so that none counts')
  return num_classes
