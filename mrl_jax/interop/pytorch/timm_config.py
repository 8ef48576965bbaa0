"""Reads the config.json that timm puts beside a checkpoint."""

import dataclasses
import pathlib
import re
from typing import Any

import msgspec

from mrl_jax import models
from mrl_jax.interop.pytorch import model_config
from mrl_jax.interop.pytorch.model_config import ModelConfig
from mrl_jax.models import resnet
from mrl_jax.models import vit
from mrl_jax.workdir import files

# Sizes of vision transformers: timm's words, and the letters here.
_SIZES = {'tiny': 'ti', 'small': 's', 'base': 'b', 'large': 'l', 'huge': 'h'}
# Arguments of timm's models that do not change what a network computes.
_HARMLESS = re.compile(
  r'num_classes|pretrained|img_size|zero_init_last|weight_init|fix_init|'
  r'head_init_scale|dynamic_img_(size|pad)|.*drop.*_rate'
)
# The one value that other arguments must have.
_REQUIRED = {'in_chans': 3, 'class_token': True, 'qkv_bias': True}
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


def read(path: pathlib.Path) -> ModelConfig:
  """Reads a config.json of timm.

  Raises ValueError if it states an architecture or a trait that no encoder here
  has.
  """
  content = files.read_json(path, _Timm)
  base = _encoder(path, content.architecture)
  variant = models.ENCODERS[base]
  is_vit = isinstance(variant, vit.Variant)
  traits = dataclasses.asdict(variant)
  pool = content.model_args.get('global_pool', content.global_pool)
  if pool is not None:
    poolings = _POOLINGS if is_vit else {'avg': 'mean'}
    # Empty in a backbone, which leaves pooling to what is behind it.
    if pool not in (*poolings, ''):
      model_config.require(path, 'global_pool', pool, ' or '.join(poolings))
    if is_vit and pool:
      traits['pooling'] = poolings[pool]
      # By default timm normalises after the mean, not before it.
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
  return ModelConfig(
    str(path),
    f"timm's {content.architecture}",
    traits,
    # 0 stands for a backbone without a classifier.
    num_classes=content.num_classes or None,
    image=image,
    notes=notes,
  )


def _encoder(path: pathlib.Path, architecture: str) -> str:
  """The encoder for timm's architecture; ValueError if there is none."""
  name = architecture.partition('.')[0]
  match = re.fullmatch(r'(?:vit|deit)_(\w+?)_patch(\d+)_\d+', name)
  name = name.removeprefix('tv_')
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
  """The traits that one argument of timm's model sets.

  Raises ValueError for an argument that no encoder here has.
  """
  if _HARMLESS.fullmatch(name) or value is None or name == 'global_pool':
    return {}
  if name in _REQUIRED:
    model_config.require(path, f'model_args.{name}', value, _REQUIRED[name])
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
    # The keys show it.
    if name == 'fc_norm':
      return {}
  raise ValueError(
    f'{path} has model_args.{name}={value!r}, which is not known here'
  )
