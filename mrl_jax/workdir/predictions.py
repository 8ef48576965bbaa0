"""What the heads say of each example of a split: .npy files and a manifest.

<split>-logits.npy         float16 [G, N, C]
<split>-predictions.npy    int32 [G, N], of the float32 logits
<split>-labels.npy         int32 [N]
<split>.json               dims, counts, checkpoint
"""

from collections.abc import Collection, Iterator, Sequence
import contextlib
import pathlib
from typing import Any, NamedTuple

import numpy as np

from mrl_jax.workdir import checksums
from mrl_jax.workdir import embeddings
from mrl_jax.workdir import files
from mrl_jax.workdir import npy

KINDS = ('logits', 'predictions', 'labels')
# Bytes that are moved at a time.
_CHUNK = 64 << 20


class Predictions(NamedTuple):
  """Of a split, in its order, without damaged images.

  Attributes:
    logits_GNC: float16, on disk.
    prediction_GN: int32.
    label_N: int32.
    manifest: what `Writer.close` wrote.
  """

  logits_GNC: np.ndarray
  prediction_GN: np.ndarray
  label_N: np.ndarray
  manifest: dict[str, Any]


def paths(folder: pathlib.Path, split: str) -> dict[str, pathlib.Path]:
  """Of each of KINDS, and of the `manifest`."""
  manifest = embeddings.paths(folder, split)[2]
  names = {kind: f'{manifest.stem}-{kind}.npy' for kind in KINDS}
  return {
    'manifest': manifest,
    **{kind: folder / name for kind, name in names.items()},
  }


def load(folder: pathlib.Path, split: str, dims: Sequence[int]) -> Predictions:
  """What was saved of a split; the logits stay on disk.

  Raises ValueError if a file is missing or is not as it was written, or if they
  disagree with each other or with `dims`.
  """
  of = paths(folder, split)
  command = f'run --mode=evaluate --config.save={",".join(KINDS)}'
  for path in of.values():
    if not path.exists():
      raise ValueError(f'{path} is not there: {command} first')
  sealed = checksums.read(of['manifest'], f'delete it and {command}')
  sealed.check(*(of[kind].name for kind in KINDS))
  manifest = sealed.record
  try:
    arrays = [npy.load(of[kind], mmap=True) for kind in KINDS]
  except (ValueError, OSError) as error:
    raise ValueError(
      f'{of["logits"]} or what is beside it cannot be read ({error}): delete '
      f'it and {command}'
    ) from error
  there, N, C = (manifest.get(x, 0) for x in ('dims', 'count', 'num_classes'))
  G = len(there or ())
  found = [(x.shape, x.dtype.name) for x in arrays]
  expected = [((G, N, C), 'float16'), ((G, N), 'int32'), ((N,), 'int32')]
  if found != expected:
    raise ValueError(
      f'{of["manifest"]} says {expected}, but the arrays are {found}: delete '
      f'it and {command}'
    )
  if there != list(dims):
    raise ValueError(
      f'{of["manifest"]} is of dims {there}, not {list(dims)}: delete it and '
      f'{command}'
    )
  logits_GNC, prediction_GN, label_N = arrays
  return Predictions(
    logits_GNC, np.array(prediction_GN), np.array(label_N), manifest
  )


def remove(folder: pathlib.Path, split: str) -> None:
  """What an earlier checkpoint said; the manifest goes first."""
  for path in paths(folder, split).values():
    path.unlink(missing_ok=True)


@contextlib.contextmanager
def writing(
  folder: pathlib.Path,
  split: str,
  kinds: Collection[str],
  *,
  dims: Sequence[int],
  count: int,
  num_classes: int,
) -> Iterator['Writer']:
  """Yields a writer; the files appear together at the end, or none does.

  What was saved of the split before goes at once. `count` is the most examples
  that there can be.
  """
  remove(folder, split)
  shapes = {
    'logits': ((len(dims), count, num_classes), np.float16),
    'predictions': ((len(dims), count), np.int32),
    'labels': ((1, count), np.int32),
  }
  of = paths(folder, split)
  with contextlib.ExitStack() as stack:
    temporary = {
      kind: stack.enter_context(files.replacing(of[kind])) for kind in kinds
    }
    blocks = {
      kind: stack.enter_context(_Blocks(path, *shapes[kind]))
      for kind, path in temporary.items()
    }
    yield Writer(blocks)
    for kind in blocks:
      blocks[kind].finish(flat=kind == 'labels')


class Writer:
  """Appends the examples of each batch."""

  def __init__(self, blocks: dict[str, '_Blocks']):
    self._blocks = blocks
    self.count = 0

  def append(
    self,
    logits_GBC: np.ndarray | None,
    prediction_GB: np.ndarray,
    label_B: np.ndarray,
  ) -> None:
    """Raises ValueError for logits that float16 cannot hold."""
    if logits_GBC is not None and not np.isfinite(logits_GBC).all():
      raise ValueError(
        'logits are beyond 65,504, which float16 does not hold: leave them out '
        'of config.save'
      )
    rows = {
      'logits': logits_GBC,
      'predictions': prediction_GB,
      'labels': label_B[None],
    }
    for kind, block in self._blocks.items():
      block.append(rows[kind])
    self.count += len(label_B)


class _Blocks:
  """A .npy file [G, N, …], filled along N; nothing else is in memory.

  Written by calls, not through a memmap, so that a full disk is an OSError.
  """

  def __init__(self, path: pathlib.Path, shape: tuple[int, ...], dtype):
    self._file = open(path, 'w+b')  # noqa: SIM115 (closed in __exit__)
    self._shape, self._dtype = shape, np.dtype(dtype)
    self._row_bytes = self._dtype.itemsize * int(np.prod(shape[2:]))
    self._count = 0
    self._write_header(shape)
    self._start = self._file.tell()

  def __enter__(self) -> '_Blocks':
    return self

  def __exit__(self, *error) -> None:
    self._file.close()

  def append(self, rows_GB: np.ndarray) -> None:
    for g, rows_B in enumerate(rows_GB):
      self._file.seek(self._offset(g, self._shape[1], self._count))
      np.ascontiguousarray(rows_B, self._dtype).tofile(self._file)
    self._count += rows_GB.shape[1]

  def finish(self, *, flat: bool) -> None:
    """Closes the gaps that rows left out have left."""
    G, N, *rest = self._shape
    for g in range(1, G if self._count < N else 0):
      self._move(
        self._offset(g, N, 0),
        self._offset(g, self._count, 0),
        self._count * self._row_bytes,
      )
    shape = (G, self._count, *rest)
    self._file.truncate(self._offset(G, self._count, 0))
    self._write_header(shape[1:] if flat else shape)

  def _offset(self, g: int, count: int, row: int) -> int:
    return self._start + (g * count + row) * self._row_bytes

  def _move(self, source: int, target: int, size: int) -> None:
    for done in range(0, size, _CHUNK):
      self._file.seek(source + done)
      data = self._file.read(min(_CHUNK, size - done))
      self._file.seek(target + done)
      self._file.write(data)

  def _write_header(self, shape: tuple[int, ...]) -> None:
    embeddings.write_header(self._file, self._dtype, shape)
