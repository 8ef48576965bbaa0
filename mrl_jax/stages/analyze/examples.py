"""Some of the exported examples, seen again: their images, and the model."""

from collections.abc import Sequence
import functools

import jax
from ml_collections import ConfigDict
import numpy as np

from mrl_jax.data.batches import evaluation
from mrl_jax.data.batches.damage import DamageLog
from mrl_jax.data.images import decode
from mrl_jax.data.sources.example import Source
from mrl_jax.models import Classifier
from mrl_jax.stages import build
from mrl_jax.training import sharding
from mrl_jax.training import state as state_lib
from mrl_jax.workdir import Checkpoint
from mrl_jax.workdir import Workdir


def rows_to_indices(
  source: Source, damaged: Sequence[str], rows: np.ndarray
) -> np.ndarray:
  """Where in the source the rows of the exported embeddings come from.

  Damaged images have no row; only if there are any is the source read through.
  """
  if not damaged:
    return rows
  skipped = set(damaged)
  kept = [i for i in range(len(source)) if source.read(i).key not in skipped]
  return np.array(kept)[rows]


def images(
  config: ConfigDict, source: Source, indices: np.ndarray, label_N: np.ndarray
) -> np.ndarray:
  """The evaluation views, uint8 [N, S, S, 3].

  Raises ValueError, naming the example, if one cannot be read, or its label is
  not the exported one.
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
  """The evaluation view of a file as it is seen, uint8 [S, S, 3].

  Raises ValueError if it cannot be read.
  """
  try:
    with open(path, 'rb') as file:
      data = file.read()
    # Of any size, also where the dataset's images all have the right one.
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
  """Of a class; its number where the model has more than the dataset names."""
  return class_names[label] if label < len(class_names) else str(label)


class Trained:
  """The trained model on one device, and its step."""

  def __init__(
    self,
    config: ConfigDict,
    workdir: Workdir,
    num_classes: int,
    *,
    needed_by: str,
    checkpoint: Checkpoint | None = None,
  ):
    """As `build.trained` takes them, and raises."""
    self._trained = build.trained(
      config,
      workdir,
      sharding.make_mesh(1),
      num_classes,
      needed_by=needed_by,
      checkpoint=checkpoint,
    )
    self.step = self._trained.step

  def __call__(self, function, *arrays: np.ndarray):
    """What `function(model, *arrays)` returns, jitted, as numpy arrays."""
    graphdef, params, batch_stats, _ = self._trained

    @jax.jit
    def run(params, batch_stats, *arrays):
      model = state_lib.evaluation_model(graphdef, params, batch_stats)
      return function(model, *arrays)

    return jax.device_get(run(params, batch_stats, *arrays))


def probabilities(model: Classifier, embedding_ND: jax.Array) -> jax.Array:
  """Of all classes at every width, [G, N, C]."""
  return jax.nn.softmax(model.head(embedding_ND))


def normalized(config: ConfigDict, function):
  """`function(model, image_NHWC)` on uint8 images."""
  normalize = build.normalize(config)

  @functools.wraps(function)
  def run(model, image_NHWC):
    return function(model, normalize(image_NHWC))

  return run
