"""Finds the images of some exported examples again."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
from ml_collections import ConfigDict
import numpy as np

from mrl_jax.data.batches import evaluation
from mrl_jax.data.batches.damage import DamageLog
from mrl_jax.data.images import decode
from mrl_jax.data.sources.example import Source
from mrl_jax.models import Classifier
from mrl_jax.stages import recorded
from mrl_jax.stages import trained as trained_lib
from mrl_jax.stages.trained import Trained
from mrl_jax.training import sharding
from mrl_jax.workdir import Checkpoint
from mrl_jax.workdir import embeddings
from mrl_jax.workdir import Workdir


class Split(NamedTuple):
  """The exported embeddings of the evaluation split, its images, and the model.

  `damaged` are the keys of the images without an embedding.
  """

  embedding_ND: np.ndarray
  label_N: np.ndarray
  damaged: list[str]
  source: Source
  trained: Trained

  def images(self, config: ConfigDict, rows: np.ndarray) -> np.ndarray:
    """The images of these rows; see the function `images`."""
    indices = rows_to_indices(self.source, self.damaged, rows)
    return images(config, self.source, indices, self.label_N[rows])


def open_split(
  config: ConfigDict, workdir: Workdir, checkpoint: Checkpoint
) -> Split:
  """Opens what the stage embed wrote, and the checkpoint it was made with."""
  embedding_ND, label_N, manifest = embeddings.load(
    workdir.embeddings, config.eval_split
  )
  source = recorded.open_mapped(config, config.eval_split, workdir)
  mesh = sharding.make_mesh(1)
  trained = trained_lib.restore(
    config, workdir, checkpoint, source.num_classes, mesh=mesh
  )
  return Split(embedding_ND, label_N, manifest['damaged'], source, trained)


def rows_to_indices(
  source: Source, damaged: Sequence[str], rows: np.ndarray
) -> np.ndarray:
  """The indices in the source of some rows of the exported embeddings.

  Damaged images have no row, so if there are any the source is read through.
  """
  if not damaged:
    return rows
  skipped = set(damaged)
  kept = [i for i in range(len(source)) if source.read(i).key not in skipped]
  return np.array(kept)[rows]


def images(
  config: ConfigDict, source: Source, indices: np.ndarray, label_N: np.ndarray
) -> np.ndarray:
  """The images as for evaluation, uint8 [N, S, S, 3].

  Raises ValueError, naming the example, if one cannot be read, or has another
  label than the exported one.
  """
  views = []
  damage = DamageLog(0)
  for index, label in zip(indices, label_N, strict=True):
    found = evaluation.view(
      source,
      int(index),
      resize=config.eval_resize,
      size=config.eval_image_size,
      damage=damage,
    )
    if found is None or found[1] != label:
      raise ValueError(
        f'example {index} of {config.eval_split} is not what was exported: '
        'run --mode=embed again'
      )
    views.append(found[0])
  return np.stack(views)


def read_image(config: ConfigDict, path: str) -> np.ndarray:
  """An image file as for evaluation, uint8 [S, S, 3]; or ValueError."""
  try:
    with open(path, 'rb') as file:
      data = file.read()
    # A file may have any size, even if the dataset is not resized.
    resize = config.eval_resize or config.eval_image_size
    return decode.view(
      data,
      resize=resize,
      size=config.eval_image_size,
      as_seen=config.as_seen != 'no',
    )
  except (OSError, decode.DamagedImageError) as error:
    raise ValueError(f'image {path} cannot be read: {error}') from error


def name(class_names: Sequence[str], label: int) -> str:
  """The name of a class, or its number if the dataset has no name for it."""
  return class_names[label] if label < len(class_names) else str(label)


def probabilities(model: Classifier, embedding_ND: jax.Array) -> jax.Array:
  """Probabilities of all classes at every nesting dim, [G, N, C]."""
  return jax.nn.softmax(model.head(embedding_ND))
