"""Grad-CAM of some evaluation images at each width."""

from collections.abc import Mapping, Sequence
import pathlib
from typing import Any

from ml_collections import ConfigDict
import numpy as np

from mrl_jax.models import saliency
from mrl_jax.stages import inputs
from mrl_jax.stages import recorded
from mrl_jax.stages import trained as trained_lib
from mrl_jax.stages.analyze import examples
from mrl_jax.stages.trained import Trained
from mrl_jax.training import sharding
from mrl_jax.workdir import Checkpoint
from mrl_jax.workdir import checksums
from mrl_jax.workdir import files
from mrl_jax.workdir import Workdir

FILES = ('saliency.json', 'saliency.npz')
_IMAGES = 8
# Random examples from which they are chosen.
_POOL = 2000


def run(config: ConfigDict, workdir: Workdir, checkpoint: Checkpoint) -> None:
  """Writes analysis/saliency.json and .npz for eight examples.

  They are those on whose class the widths disagree most, one of each class
  while there are enough classes.
  """
  split = examples.open_split(config, workdir, checkpoint)
  rng = np.random.default_rng(config.seed)
  pool = rng.permutation(len(split.label_N))[:_POOL]
  probability_GNC = split.trained.apply(
    examples.probabilities, np.array(split.embedding_ND[pool])
  )
  rows = pool[_telling(probability_GNC.argmax(-1), split.label_N[pool])]
  image_NHWC = split.images(config, rows)
  found, rollout_Nhw = _explained(config, split.trained, image_NHWC)
  labels = split.label_N[rows].tolist()
  class_names = split.source.class_names
  titles = [examples.name(class_names, label) for label in labels]
  record = _describe(config, class_names, found, labels, titles)
  record |= checkpoint.as_json()
  _write(workdir.analysis, record, image_NHWC, found.heat_GNhw, rollout_Nhw)


def explain(
  config: ConfigDict, workdir: Workdir, paths: Sequence[str]
) -> tuple[dict[str, Any], np.ndarray, np.ndarray, np.ndarray | None]:
  """Explains images: the record, the images, the heatmaps and the rollout.

  Raises ValueError if an image cannot be read, or there is no checkpoint.
  """
  if not paths:
    raise ValueError('no images: name at least one')
  image_NHWC = np.stack([examples.read_image(config, path) for path in paths])
  class_names = recorded.class_names(config, workdir)
  trained = trained_lib.restore(
    config,
    workdir,
    trained_lib.chosen(config, workdir),
    len(class_names),
    mesh=sharding.make_mesh(1),
  )
  found, rollout_Nhw = _explained(config, trained, image_NHWC)
  titles = [pathlib.Path(path).name for path in paths]
  record = _describe(config, class_names, found, [None] * len(paths), titles)
  record |= {'step': trained.step}
  return record, image_NHWC, found.heat_GNhw, rollout_Nhw


def _explained(
  config: ConfigDict, trained: Trained, image_NHWC: np.ndarray
) -> tuple[saliency.Saliency, np.ndarray | None]:
  """Grad-CAM and attention rollout of uint8 images."""
  normalize = inputs.normalize(config)
  return trained.apply(
    lambda model, image: saliency.explain(model, normalize(image)), image_NHWC
  )


def _write(
  folder: pathlib.Path,
  record: Mapping[str, Any],
  image_NHWC: np.ndarray,
  heat_GNhw: np.ndarray,
  rollout_Nhw: np.ndarray | None,
) -> None:
  """Writes saliency.json, and saliency.npz: `image`, `heat` and `rollout`.

  `rollout`, the attention rollout, is written for transformers only.
  """
  arrays = {'image': image_NHWC, 'heat': heat_GNhw.astype(np.float32)}
  if rollout_Nhw is not None:
    arrays['rollout'] = rollout_Nhw.astype(np.float32)
  arrays_path = folder / record['arrays']
  with files.replacing(arrays_path) as path, open(path, 'wb') as file:
    np.savez(file, **arrays)
  checksums.write(folder / 'saliency.json', record, [arrays_path])


def _describe(
  config: ConfigDict,
  class_names: Sequence[str],
  found: saliency.Saliency,
  labels: Sequence[int | None],
  titles: Sequence[str],
) -> dict[str, Any]:
  """The content of saliency.json but for the checkpoint.

  `labels` are None where they are unknown; `titles` name the images.
  """
  known = {*found.class_GN.ravel().tolist(), *labels} - {None}
  return {
    'dims': list(config.nesting_dims),
    'method': 'Grad-CAM',
    'arrays': 'saliency.npz',
    'labels': list(labels),
    'titles': list(titles),
    'names': {str(i): examples.name(class_names, i) for i in sorted(known)},
    'prediction': found.class_GN.tolist(),
    'probability': found.probability_GN.astype(float).round(4).tolist(),
  }


def _telling(prediction_GN: np.ndarray, label_N: np.ndarray) -> np.ndarray:
  """Rows on which the widths disagree most, first one of each class."""
  # First come examples that the widest width gets right and the narrowest not.
  gains_N = (prediction_GN[0] != label_N) & (prediction_GN[-1] == label_N)
  kinds_N = np.array([len(np.unique(x_G)) for x_G in prediction_GN.T])
  order = np.lexsort((-kinds_N, ~gains_N))
  _, firsts = np.unique(label_N[order], return_index=True)
  others = np.setdiff1d(np.arange(len(order)), firsts)
  return order[np.concatenate([np.sort(firsts), others])][:_IMAGES]
