"""Makes a workdir from a PyTorch checkpoint, as if it was trained here."""

from collections.abc import Mapping
import os
import pathlib
import time
from typing import Any

from flax import nnx
import jax
from jax import numpy as jnp
from ml_collections import ConfigDict

from mrl_jax import models
from mrl_jax import nesting
from mrl_jax import stages
from mrl_jax import terminal
from mrl_jax.data.sources import provenance
from mrl_jax.data.sources.provenance import Provenance
from mrl_jax.interop.pytorch import load
from mrl_jax.interop.pytorch.contents import Contents
from mrl_jax.models import geometry
from mrl_jax.models import heads
from mrl_jax.stages import build
from mrl_jax.stages import check
from mrl_jax.stages import config as config_lib
from mrl_jax.stages import recorded
from mrl_jax.training import fingerprint
from mrl_jax.training.checkpoint import Checkpoints
from mrl_jax.training.state import arrays_of
from mrl_jax.training.state import State
from mrl_jax.workdir import files
from mrl_jax.workdir import Workdir

# Step 0 means that there is no checkpoint.
_STEP = 1


def write(
  file: str | os.PathLike,
  out: str | os.PathLike,
  *,
  config: ConfigDict | None = None,
  nesting_dims: tuple[int, ...] = (),
  prefix: str = '',
  options: Mapping[str, Any] | None = None,
) -> None:
  """Writes `checkpoints/1` in the new workdir `out`, and prints a summary.

  The workdir is for `config.init_from`; it has no optimizer state, so that a
  training cannot go on there.

  Args:
    file: the PyTorch file, see `torch_import`.
    out: the workdir.
    config: a config that the model must fit, with which the workdir then counts
      as trained: the model's classes are those of its dataset, in their order.
      None: the workdir holds the model alone.
    nesting_dims: without a config, the nesting dims of MRL-E, which the file
      does not hold, or the measured dims of an encoder without a classifier.
    prefix: precedes the network's keys in a file with several networks.
    options: the `geometry.OPTIONS` that replace the config's, unless empty.

  Raises ValueError if the file cannot be imported, the config's dataset is
  missing, or `out` has other checkpoints than a killed import of this file.
  """
  start = time.perf_counter()
  if config is not None:
    config = config.copy_and_resolve_references()
    config.update({name: x for name, x in (options or {}).items() if x})
    prefix, options = prefix or config.init_prefix, geometry.options(config)
  checkpoint = load.open_checkpoint(file, prefix=prefix, options=options)
  form = checkpoint.contents
  pixels = ''
  if config is None:
    config = _config(file, form, nesting_dims)
    if not form.config_json or 'mean' not in form.config_json.image:
      pixels = f'pixels of mean {config.mean} and std {config.std}'
    workdir = Workdir(out, config.to_dict())
    dataset, num_classes = None, config.num_classes
  else:
    config = config_lib.resolve(config)
    check.check(config)
    if config.slimmable:
      raise ValueError(
        f'config {config.name}: {file} has no BatchNorms of the narrower '
        'networks, which slimmable needs; train with --config.init_from='
        f'{file}'
      )
    for line in form.differing(config):
      if line.startswith(('config.json says mean', 'config.json says std')):
        raise ValueError(f'{file}: {line}')
      terminal.say(line)
    dataset = recorded.of_import(config)
    num_classes = len(dataset.class_names)
    workdir = stages.open_workdir(config, out)
  used = ValueError(f'out {out}: has checkpoints; give a new folder')
  latest = workdir.latest_step()
  if latest > _STEP or (latest and 'train' in workdir.marks()):
    raise used
  model = nnx.eval_shape(lambda: build.model(config, num_classes))
  traits = geometry.options(config)
  has_head = checkpoint.fill(model, encoder=config.encoder, options=traits)
  if not has_head and config.head != 'none':
    model.head = _fresh_head(model.head, config.seed)
  with workdir.locked('train'):
    if not workdir.latest_step():
      _save(model, workdir, dataset)
    elif not _is_saved(model, workdir):
      raise used
    seconds = time.perf_counter() - start
    stages.mark_finished('train', workdir, seconds)
  variant = geometry.changed(models.ENCODERS[config.encoder], **traits)
  for line in form.remarks(variant, pixels):
    terminal.say(line)
  terminal.say(
    f'{form}: in {workdir.path}, {_heads(model, has_head)}, in {seconds:.1f} s'
  )
  if dataset and has_head:
    names = dataset.class_names
    terminal.say(
      f'its classes are taken to be those of {recorded.name_of(config)}, in '
      f'their order: {names[0]} to {names[-1]}'
    )
  elif dataset and form.classifier:
    terminal.say(
      f'the heads in {file}, of {form.classifier.num_classes:,} classes at '
      f'{form.classifier.widths}, do not fit and are left out'
    )


def _heads(model: models.Classifier, has_head: bool) -> str:
  head = model.head
  if head is None:
    return 'without a classifier'
  widths = ', '.join(map(str, head.nesting_dims))
  return (
    f'with {"its" if has_head else "fresh"} heads ({head.kind} at {widths}, '
    f'{head.num_classes:,} classes)'
  )


def _config(
  file: str | os.PathLike, form: Contents, nesting_dims: tuple[int, ...]
) -> ConfigDict:
  """The config of the model in the file."""
  kind, widths = _kind_and_widths(file, form, nesting_dims)
  told = dict(form.config_json.image) if form.config_json else {}
  size = form.image_size or told.get('eval_image_size', 224)
  return ConfigDict(
    {
      'name': pathlib.Path(file).stem,
      'init_from': str(file),
      'seed': 0,
      'embeddings': '',
      'encoder': form.encoder,
      'blurpool': form.blurpool,
      'image_size': size,
      'eval_image_size': size,
      'eval_resize': told.get('eval_resize', round(size / 0.875)),
      'mean': told.get('mean', (0.485, 0.456, 0.406)),
      'std': told.get('std', (0.229, 0.224, 0.225)),
      **geometry.OPTIONS,
      **form.options,
      'drop_path': 0.0,
      'remat': False,
      'dtype': 'float32',
      'head': kind,
      'slimmable': False,
      'nesting_dims': widths,
      'num_classes': form.classifier.num_classes if form.classifier else 0,
      'loss_kernel': 'xla',
    }
  )


def _kind_and_widths(
  file: str | os.PathLike, form: Contents, nesting_dims: tuple[int, ...]
) -> tuple[str, tuple[int, ...]]:
  width = form.variant.num_features
  if form.classifier is None:
    dims = nesting_dims or nesting.doubling(8, width)
    return 'none', nesting.validate(dims, width)
  kind, widths = form.classifier.kind, form.classifier.widths
  if kind == 'mrl_e' and not nesting_dims:
    raise ValueError(
      f'{file} has one classifier of width {widths[0]} for all nesting dims, '
      'MRL-E, and does not tell them: give --nesting_dims=8,16,…'
    )
  if nesting_dims and kind != 'mrl':
    kind, widths = 'mrl_e', nesting_dims
  if widths[-1] != form.classifier.widths[-1] or (
    kind == 'mrl' and nesting_dims not in ((), widths)
  ):
    raise ValueError(
      f'nesting_dims {nesting_dims}: {file} has classifiers of the widths '
      f'{form.classifier.widths}'
    )
  return kind, widths


def _fresh_head(abstract: nnx.Module, seed: int) -> heads.MatryoshkaHead:
  return heads.MatryoshkaHead(
    abstract.nesting_dims,
    abstract.num_classes,
    kind=abstract.kind,
    dtype=abstract.dtype,
    loss_kernel=abstract.loss_kernel,
    rngs=nnx.Rngs(seed),
  )


def _is_saved(model: models.Classifier, workdir: Workdir) -> bool:
  """Whether the checkpoint holds this model, from a killed import."""
  path = workdir.checkpoints / str(_STEP) / 'fingerprints' / 'metadata'
  saved = files.read_json(path, missing={})
  found = fingerprint.of_arrays({'model': arrays_of(model)})
  return found.items() <= saved.items()


def _save(
  model: models.Classifier, workdir: Workdir, dataset: Provenance | None
) -> None:
  step = jnp.array(_STEP, jnp.int32)
  state = State(step, **arrays_of(model), opt_state={})
  workdir.write_config()
  with Checkpoints(workdir.checkpoints, keep=1) as checkpoints:
    checkpoints.save(
      jax.block_until_ready(state),
      workdir.config,
      dataset=dataset and provenance.plain(dataset),
    )
