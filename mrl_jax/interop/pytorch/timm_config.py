"""Reads the config.json that timm puts beside a checkpoint."""

import dataclasses
import pathlib
import re
from typing import Any

import msgspec

from mrl_jax import models
from mrl_jax.interop.pytorch import model_config
from mrl_jax.interop.pytorch.model_config import Told
from mrl_jax.models import resnet
from mrl_jax.models import vit
from mrl_jax.workdir import files

# timm's letters of transformers, and ours.
_SIZES = {'tiny': 'ti', 'small': 's', 'base': 'b', 'large': 'l', 'huge': 'h'}
# Arguments of timm's models that change nothing of a network in evaluation.
_HARMLESS = frozenset(
  {
    'num_classes',
    'pretrained',
    'img_size',
    'drop_rate',
    'drop_path_rate',
    'drop_block_rate',
    'proj_drop_rate',
    'attn_drop_rate',
    'pos_drop_rate',
    'patch_drop_rate',
    'zero_init_last',
    'weight_init',
    'fix_init',
    'head_init_scale',
    'dynamic_img_size',
    'dynamic_img_pad',
  }
)
# Values that change nothing of the others.
_DEFAULTS = {'in_chans': 3, 'class_token': True, 'qkv_bias': True}
_POOLINGS = {'token': 'token', 'avg': 'mean'}


class _Pretrained(msgspec.Struct, frozen=True):
  mean: list[float] | None = None
  std: list[float] | None = None
  input_size: list[int] | None = None
  crop_pct: float | None = None
  crop_mode: str | None = None
  interpolation: str | None = None


class _Timm(msgspec.Struct):
  architecture: str
  num_classes: int | None = None
  global_pool: str | None = None
  model_args: dict[str, Any] = {}
  pretrained_cfg: _Pretrained = _Pretrained()


def read(path: pathlib.Path) -> Told:
  """What the file says.

  Raises ValueError if it is of an architecture, or has a trait, that is not
  known here.
  """
  content = files.read_json(path, _Timm)
  base = _encoder(path, content.architecture)
  variant = models.ENCODERS[base]
  is_vit = isinstance(variant, vit.Variant)
  traits = dataclasses.asdict(variant)
  pool = content.model_args.get('global_pool', content.global_pool)
  if pool is not None:
    poolings = _POOLINGS if is_vit else {'avg': 'mean'}
    # Without pooling it is a backbone, of whatever is behind it.
    if pool not in (*poolings, ''):
      model_config.require(path, 'global_pool', pool, ' or '.join(poolings))
    if is_vit and pool:
      traits['pooling'] = poolings[pool]
      # timm norms the mean, unless it is told to norm the tokens.
      if pool == 'avg' and content.model_args.get('fc_norm') is not False:
        traits['pooling'] = 'mean_then_norm'
  for name, value in content.model_args.items():
    traits |= _argument(path, name, value, variant)
  cfg = content.pretrained_cfg
  if cfg.crop_mode not in (None, 'center'):
    model_config.require(
      path, 'pretrained_cfg.crop_mode', cfg.crop_mode, 'center'
    )
  image, notes = model_config.image_fields(
    cfg.mean,
    cfg.std,
    cfg.input_size[-1] if cfg.input_size else None,
    cfg.crop_pct,
    cfg.interpolation,
  )
  return Told(
    str(path),
    f"timm's {content.architecture}",
    traits,
    # None of its own: a backbone.
    num_classes=content.num_classes or None,
    image=image,
    notes=notes,
  )


def _encoder(path: pathlib.Path, architecture: str) -> str:
  """The name here of timm's architecture; ValueError if there is none."""
  match = re.fullmatch(
    r'(?:vit|deit)_(\w+?)_patch(\d+)_\d+', architecture.partition('.')[0]
  )
  name = architecture.partition('.')[0].removeprefix('tv_')
  if match and match[1] in _SIZES:
    name = f'vit_{_SIZES[match[1]]}{match[2]}'
  elif not re.fullmatch(
    r'resnet\d+d?|resnetblur50|wide_resnet\d+_2|resnext\d+_\d+x\d+d|'
    r'convnext_[a-z]+',
    name,
  ):
    name = ''
  if name not in models.ENCODERS:
    raise ValueError(
      f"{path} says that it is timm's {architecture}, which is no encoder "
      'here: ResNets, ConvNeXts and ViTs are'
    )
  return name


def _argument(
  path: pathlib.Path, name: str, value: Any, variant: Any
) -> dict[str, Any]:
  """The traits that an argument of timm's model stands for.

  Raises ValueError for one that changes the network in a way that is not
  known here.
  """
  if name in _HARMLESS or value is None or name == 'global_pool':
    return {}
  if name in _DEFAULTS:
    model_config.require(path, f'model_args.{name}', value, _DEFAULTS[name])
    return {}
  if name == 'output_stride' and isinstance(variant, resnet.Variant):
    return {'output_stride': value}
  if isinstance(variant, vit.Variant):
    names = {
      'num_heads': 'num_heads',
      'patch_size': 'patch',
      'depth': 'depth',
      'embed_dim': 'width',
    }
    if name in names:
      return {names[name]: value}
    # Told by the keys.
    if name == 'fc_norm':
      return {}
  raise ValueError(
    f'{path} has model_args.{name}={value!r}, which is not known here'
  )
