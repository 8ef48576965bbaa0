"""The records of an export: its input, its model and its accuracy."""

from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from mrl_jax.data.sources import provenance
from mrl_jax.interop import export_folder
from mrl_jax.models import geometry
from mrl_jax.stages import config as config_lib
from mrl_jax.stages import recorded
from mrl_jax.stages.trained import Trained
from mrl_jax.workdir import Workdir
from mrl_jax.workdir.metrics_log import last_evaluation

_METRICS = {'top1': 'val/top1', 'top5': 'val/top5', 'knn1': 'val/knn1'}


def preprocess(config: ConfigDict) -> dict[str, Any]:
  """The input of the artifact, and how an image is made into it."""
  if config.embeddings:
    return {
      'input': 'vectors',
      'shape': ['n', config_lib.num_features(config)],
      'dtype': 'float32',
    }
  size = config.eval_image_size
  return {
    'input': 'images',
    'shape': ['n', size, size, 3],
    'dtype': 'uint8',
    'channels': 'RGB',
    # The shorter side in pixels; 0: images have `size` x `size` already.
    'resize': config.eval_resize,
    'resize_filter': 'bilinear, antialiased',
    'crop': 'center',
    # Whether an image is first turned as its EXIF orientation says, and
    # transparent pixels are laid over white.
    'as_seen': config.as_seen != 'no',
    'size': size,
    # The artifact does this itself: (pixel / 255 - mean) / std.
    'normalized_inside': True,
    'mean': list(config.mean),
    'std': list(config.std),
  }


def about(
  config: ConfigDict,
  workdir: Workdir,
  trained: Trained,
  class_names: Sequence[str],
) -> dict[str, Any]:
  """The content of config.json: the model, its training and its accuracy."""
  last = config.nesting_dims[-1]
  values = last_evaluation(workdir.metrics, last, trained.step)
  if values is None:
    raise ValueError(
      f'{workdir.metrics} holds no evaluation of step {trained.step}: delete '
      f'{workdir.evaluation} and run --mode=evaluate,export'
    )
  record = {
    'name': config.name,
    'encoder': config.encoder,
    **geometry.options(config),
    'num_features': config_lib.num_features(config),
    'head': config.head,
    'nesting_dims': list(config.nesting_dims),
    'num_classes': config.num_classes or len(class_names),
    'dataset': config.embeddings or config.dataset,
    'train_split': config.train_split,
    'eval_split': config.eval_split,
    'dtype': config.dtype,
    # Whether logits are averaged over each image and its mirror image.
    'eval_flip': config.eval_flip,
    'normalized': False,
    'step': trained.step,
    'config_hash': workdir.hash_of(),
    # An export without this file is refused as incomplete.
    'checksums': export_folder.CHECKSUMS,
    # In percent, by width; top-1 and top-5 at the classifier dims only.
    'accuracy': {
      str(dim): {
        name: round(values[f'{key}@{dim}'], 4)
        for name, key in _METRICS.items()
        if f'{key}@{dim}' in values
      }
      for dim in config_lib.measured_dims(config)
    },
  }
  if not config.embeddings:
    record['class_names'] = list(class_names)
  if dataset := recorded.read(workdir):
    record['trained_on'] = {
      'name': dataset.name,
      'version': dataset.version,
      'splits': {
        split: provenance.digest(listing)
        for split, listing in dataset.splits.items()
      },
    }
  return record
