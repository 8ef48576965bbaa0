"""Hands a trained encoder over: to servers, and to whoever has no JAX."""

from collections.abc import Iterator
import contextlib
import json
import pathlib

from flax import nnx
import jax
from jax import export as jax_export
from ml_collections import ConfigDict
import numpy as np

from mrl_jax import terminal
from mrl_jax.data.sources import provenance
from mrl_jax.interop import export_folder
from mrl_jax.interop import model_card
from mrl_jax.interop.pytorch import arrays as torch_arrays
from mrl_jax.models import geometry
from mrl_jax.stages import build
from mrl_jax.stages import recorded
from mrl_jax.training import sharding
from mrl_jax.training import state as state_lib
from mrl_jax.workdir import Checkpoint
from mrl_jax.workdir import checksums
from mrl_jax.workdir import files
from mrl_jax.workdir import Workdir
from mrl_jax.workdir.metrics_log import read_metrics

PLATFORMS = ('cpu', 'cuda', 'rocm', 'tpu')
_METRICS = {'top1': 'val/top1', 'top5': 'val/top5', 'knn1': 'val/knn1'}


def outputs(config: ConfigDict, workdir: Workdir) -> list[pathlib.Path]:
  names = [
    export_folder.ARTIFACT,
    export_folder.PREPROCESS,
    export_folder.CONFIG,
    export_folder.HEADS,
    export_folder.CARD,
    export_folder.CHECKSUMS,
  ]
  if not config.embeddings:
    names.append(export_folder.TENSORS)
  if _rule_path(workdir).exists():
    names.append(export_folder.CASCADE)
  return [workdir.export / name for name in names]


def run(
  config: ConfigDict, workdir: Workdir, checkpoint: Checkpoint | None = None
) -> None:
  """Writes export/, whole or not at all.

  `encoder.stablehlo` is the encoder, uint8 pixels (or vectors) to float32
  embeddings, for any batch size, by `jax.export`; `preprocess.json` says what
  it takes; `config.json` and `README.md` what it is, with the accuracy of
  every width. `heads.npz` has the classifiers, and `cascade.json` the widths'
  thresholds, where analyze has found them of this checkpoint.
  `model.safetensors` has the encoder and its heads by timm's names, which
  `init_from` reads back; those of vectors have none there. `checksums.json` has
  the checksums of them all, which are checked when an export is opened.
  `checkpoint` is the one to read; None: what the config says.
  """
  if checkpoint is None:
    checkpoint = build.chosen(config, workdir)
  class_names = recorded.class_names(config, workdir)
  mesh = sharding.make_mesh(config.mesh.data * config.mesh.model)
  trained = build.trained(
    config,
    workdir,
    mesh,
    len(class_names),
    needed_by='export',
    checkpoint=checkpoint,
  )
  if jax.process_index():
    return
  about = _about(config, workdir, trained, class_names)
  preprocess = _preprocess(config)
  with files.replacing_folder(workdir.export) as folder:
    artifact = _artifact(config, trained, preprocess)
    (folder / export_folder.ARTIFACT).write_bytes(artifact)
    files.write_json(folder / export_folder.PREPROCESS, preprocess)
    files.write_json(folder / export_folder.CONFIG, about)
    _write_heads(folder / export_folder.HEADS, trained)
    rule = _rule(workdir, checkpoint)
    if rule:
      files.write_json(folder / export_folder.CASCADE, rule)
    if not config.embeddings:
      _write_tensors(folder / export_folder.TENSORS, trained, about)
    (folder / export_folder.CARD).write_text(
      model_card.text(about, preprocess, has_rule=bool(rule)),
      encoding='utf-8',
    )
    checksums.write(
      folder / export_folder.CHECKSUMS, {}, list(folder.iterdir())
    )
  terminal.say(
    f'export: step {trained.step}, {len(artifact) / 1e6:,.1f} MB for '
    f'{", ".join(PLATFORMS)} in {workdir.export}'
  )


def _artifact(config, trained, preprocess) -> bytearray:
  embed_step = state_lib.make_embed_step(
    trained.graphdef, build.normalize(config)
  )
  # On the host, so that they become constants of the program.
  arrays = jax.device_get((trained.params, trained.batch_stats))
  shape = jax_export.symbolic_shape(', '.join(map(str, preprocess['shape'])))
  with _without_source_paths():
    exported = jax_export.export(
      jax.jit(lambda image: embed_step(*arrays, {'image': image})),
      platforms=PLATFORMS,
    )(jax.ShapeDtypeStruct(shape, np.dtype(preprocess['dtype'])))
    return exported.serialize()


@contextlib.contextmanager
def _without_source_paths() -> Iterator[None]:
  """Keeps the paths of this machine's source files out of lowered programs.

  The same model gives the same bytes, wherever it was exported.
  """
  name = 'jax_traceback_in_locations_limit'
  before = getattr(jax.config, name)
  jax.config.update(name, 0)
  try:
    yield
  finally:
    jax.config.update(name, before)


def _write_heads(path: pathlib.Path, trained) -> None:
  head = nnx.merge(trained.graphdef, *trained[1:3]).head
  widths = list(enumerate(head.nesting_dims))
  arrays = {}
  for g, dim in widths if head.kind == 'mrl' else widths[-1:]:
    kernel_mC, bias_C = head.weights(g)
    arrays |= {f'kernel_{dim}': kernel_mC, f'bias_{dim}': bias_C}
  np.savez(path, **jax.device_get(arrays))


def _rule_path(workdir: Workdir) -> pathlib.Path:
  return workdir.analysis / 'cascade.json'


def _rule(workdir: Workdir, checkpoint: Checkpoint) -> dict | None:
  """The cascade that analyze has fitted; None without one of the checkpoint."""
  path = _rule_path(workdir)
  if not path.exists():
    return None
  rule = checksums.read(path, 'delete it and run --mode=analyze,export').record
  if 'step' in rule and checkpoint.has_made(rule):
    return rule
  terminal.say(
    f'export: {path} is not of step {checkpoint.step} as it is now, left '
    'out: delete it and run --mode=analyze,export'
  )
  return None


def _write_tensors(path: pathlib.Path, trained, about) -> None:
  from safetensors import numpy as safetensors

  model = nnx.merge(trained.graphdef, *trained[1:3])
  tensors = torch_arrays.to_torch(model, 'timm')
  # All values are text there.
  metadata = {
    # What transformers and timm look for.
    'format': 'pt',
    'encoder': about['encoder'],
    'head': about['head'],
    'nesting_dims': ','.join(map(str, about['nesting_dims'])),
    'num_features': str(about['num_features']),
    'num_classes': str(about['num_classes']),
  }
  contiguous = {name: np.ascontiguousarray(x) for name, x in tensors.items()}
  # Their own writing gives the file to its owner alone.
  path.write_bytes(_sorted(safetensors.save(contiguous, metadata)))


def _sorted(data: bytes) -> bytes:
  """A safetensors file with its metadata in order.

  The library writes it in another order each time.
  """
  start = 8 + int.from_bytes(data[:8], 'little')
  header = json.loads(data[8:start])
  header['__metadata__'] = dict(sorted(header['__metadata__'].items()))
  text = json.dumps(header, separators=(',', ':')).encode()
  text += b' ' * (-len(text) % 8)
  return len(text).to_bytes(8, 'little') + text + data[start:]


def _preprocess(config: ConfigDict) -> dict:
  """What the artifact takes, and how an image becomes that."""
  if config.embeddings:
    return {
      'input': 'vectors',
      'shape': ['n', build.num_features(config)],
      'dtype': 'float32',
    }
  size = config.eval_image_size
  return {
    'input': 'images',
    'shape': ['n', size, size, 3],
    'dtype': 'uint8',
    'channels': 'RGB',
    # The shorter side, in pixels; 0: images are square and of `size` already.
    'resize': config.eval_resize,
    'resize_filter': 'bilinear, antialiased',
    'crop': 'center',
    # Before all else an image is turned as its EXIF orientation says, and
    # transparent pixels are laid over white.
    'as_seen': config.as_seen != 'no',
    'size': size,
    # The artifact does this itself: (pixel / 255 - mean) / std.
    'normalized_inside': True,
    'mean': list(config.mean),
    'std': list(config.std),
  }


def _about(config, workdir, trained, class_names) -> dict:
  evaluated = [
    record
    for record in read_metrics(workdir.metrics)
    if record['step'] == trained.step
    and f'val/knn1@{config.nesting_dims[-1]}' in record
  ]
  if not evaluated:
    raise ValueError(
      f'{workdir.metrics} holds no evaluation of step {trained.step}: delete '
      f'{workdir.evaluation} and run --mode=evaluate,export'
    )
  values = evaluated[-1]
  about = {
    'name': config.name,
    'encoder': config.encoder,
    **geometry.options(config),
    'num_features': build.num_features(config),
    'head': config.head,
    'nesting_dims': list(config.nesting_dims),
    'num_classes': config.num_classes or len(class_names),
    'dataset': config.embeddings or config.dataset,
    'train_split': config.train_split,
    'eval_split': config.eval_split,
    'dtype': config.dtype,
    # Whether accuracies, and classes, are of means over mirror images.
    'eval_flip': config.eval_flip,
    'normalized': False,
    'step': trained.step,
    'config_hash': workdir.hash_of(),
    # Without this file the others are not taken for whole.
    'checksums': export_folder.CHECKSUMS,
    # Percent, by width; linear ones only where there is a classifier.
    'accuracy': {
      str(dim): {
        name: round(values[f'{key}@{dim}'], 4)
        for name, key in _METRICS.items()
        if f'{key}@{dim}' in values
      }
      for dim in build.widths(config)
    },
  }
  if not config.embeddings:
    about['class_names'] = list(class_names)
  if dataset := recorded.read(workdir):
    about['trained_on'] = {
      'name': dataset.name,
      'version': dataset.version,
      'splits': {
        split: provenance.digest(listing)
        for split, listing in dataset.splits.items()
      },
    }
  return about
