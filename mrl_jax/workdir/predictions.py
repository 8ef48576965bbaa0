"""The heads' outputs for each example of a split: .npy files and a manifest.

<split>-logits.npy         float16 [G, N, C]
<split>-predictions.npy    int32 [G, N], of the float32 logits
<split>-labels.npy         int32 [N]
<split>.json               dims, counts, checkpoint
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
import contextlib
import pathlib
from typing import Any, NamedTuple

import numpy as np

from mrl_jax.workdir import embeddings
from mrl_jax.workdir import files
from mrl_jax.workdir import npy

KINDS = ('logits', 'predictions', 'labels')


class Predictions(NamedTuple):
  """The heads' outputs for a split, in its order, without damaged images.

  `manifest` has dims, counts and checkpoint.
  """

  logits_GNC: np.ndarray  # float16, on disk.
  prediction_GN: np.ndarray  # int32.
  label_N: np.ndarray  # int32.
  manifest: dict[str, Any]


def paths(folder: pathlib.Path, split: str) -> dict[str, pathlib.Path]:
  """The path of each of KINDS, and of the `manifest`."""
  manifest = embeddings.paths(folder, split)[2]
  names = {kind: f'{manifest.stem}-{kind}.npy' for kind in KINDS}
  return {
    'manifest': manifest,
    **{kind: folder / name for kind, name in names.items()},
  }


def load(folder: pathlib.Path, split: str, dims: Sequence[int]) -> Predictions:
  """Loads the outputs that were saved for a split; the logits stay on disk.

  Raises ValueError if a file is missing or is not as it was written, or if they
  disagree with each other or with `dims`.
  """
  path_of = paths(folder, split)
  command = f'run --mode=evaluate --config.save={",".join(KINDS)}'

  def expected(manifest):
    N, C = manifest.get('count', 0), manifest.get('num_classes', 0)
    G = len(manifest.get('dims') or ())
    return [((G, N, C), 'float16'), ((G, N), 'int32'), ((N,), 'int32')]

  (logits_GNC, prediction_GN, label_N), manifest = npy.load_with_manifest(
    path_of['manifest'], [path_of[kind] for kind in KINDS], expected, command
  )
  if manifest['dims'] != list(dims):
    raise ValueError(
      f'{path_of["manifest"]} is of dims {manifest["dims"]}, not '
      f'{list(dims)}: delete it and {command}'
    )
  return Predictions(
    logits_GNC, np.array(prediction_GN), np.array(label_N), manifest
  )


def remove(folder: pathlib.Path, split: str) -> None:
  """Removes the outputs of an earlier checkpoint; the manifest goes first."""
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
) -> Iterator['Writer']:
  """Yields a writer; the files appear together at the end, or none does.

  What was saved of the split before is removed at once. `count` is the most
  examples that there can be.
  """
  remove(folder, split)
  path_of = paths(folder, split)
  with contextlib.ExitStack() as stack:
    enter = stack.enter_context
    temporary = {kind: enter(files.replacing(path_of[kind])) for kind in kinds}
    yield Writer(
      {
        kind: enter(
          npy.Writer(path)
          if kind == 'labels'
          else npy.Writer(path, groups=len(dims), most=count)
        )
        for kind, path in temporary.items()
      }
    )


class Writer:
  """Appends the examples of each batch."""

  def __init__(self, writers: Mapping[str, npy.Writer]):
    self._writers = writers
    self.count = 0

  def append(
    self,
    logits_GBC: np.ndarray | None,
    prediction_GB: np.ndarray,
    label_B: np.ndarray,
  ) -> None:
    """Appends a batch; ValueError for logits that float16 cannot hold."""
    if logits_GBC is not None and not np.isfinite(logits_GBC).all():
      raise ValueError(
        'logits are beyond 65,504, which float16 does not hold: leave them out '
        'of config.save'
      )
    rows = {
      'logits': (logits_GBC, np.float16),
      'predictions': (prediction_GB, np.int32),
      'labels': (label_B, np.int32),
    }
    for kind, writer in self._writers.items():
      writer.append(np.asarray(*rows[kind]))
    self.count += len(label_B)
