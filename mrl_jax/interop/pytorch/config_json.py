"""Reads the config.json beside a checkpoint: transformers', timm's, or ours."""

import dataclasses
import os
import pathlib
from typing import Any

import msgspec

from mrl_jax import models
from mrl_jax.interop.pytorch import model_config
from mrl_jax.interop.pytorch import timm_config
from mrl_jax.interop.pytorch.model_config import ModelConfig
from mrl_jax.models import geometry
from mrl_jax.workdir import files

_NAME = 'config.json'
_PREPROCESSOR = 'preprocessor_config.json'
# The activation that each family must have, in transformers' words.
_ACTIVATIONS = {'resnet': 'relu', 'convnext': 'gelu', 'vit': 'gelu'}
# The largest epsilon of layer norms that does not show in the embeddings,
# whose own is 1e-6.
_MAX_EPSILON = 1e-5


class _HuggingFace(msgspec.Struct):
  """Fields of transformers' config.json, with transformers' defaults."""

  model_type: str
  num_channels: int = 3
  hidden_act: str | None = None
  id2label: dict[str, Any] | None = None
  image_size: int | list[int] | None = None
  # ResNet and ConvNeXt.
  depths: list[int] | None = None
  hidden_sizes: list[int] | None = None
  layer_type: str = 'bottleneck'
  downsample_in_first_stage: bool = False
  downsample_in_bottleneck: bool = False
  # ViT, and ConvNeXt's patches.
  patch_size: int | None = None
  hidden_size: int = 768
  num_hidden_layers: int = 12
  num_attention_heads: int = 12
  layer_norm_eps: float = 1e-12


class _Preprocessor(msgspec.Struct):
  """Fields of transformers' preprocessor_config.json."""

  image_mean: list[float] | None = None
  image_std: list[float] | None = None
  crop_pct: float | None = None
  size: Any = None
  resample: int | None = None


class _Export(msgspec.Struct):
  """Fields of config.json in an export of mrl_jax."""

  encoder: str
  stem: str = ''
  num_heads: int = 0
  pooling: str = ''
  output_stride: int = 0


def read(path: str | os.PathLike) -> ModelConfig | None:
  """Reads the config.json beside the file; None if there is none.

  Raises ValueError if it is neither transformers', timm's nor an export's, or
  states an architecture or a trait that no encoder here has.
  """
  beside = pathlib.Path(path).parent / _NAME
  content = files.read_json(beside, missing={})
  if not content:
    return None
  if 'architecture' in content:
    return timm_config.read(beside)
  if 'model_type' in content:
    return _hugging_face(beside, files.read_json(beside, _HuggingFace))
  if 'encoder' in content:
    return _export(beside, files.read_json(beside, _Export))
  raise ValueError(
    f"{beside} is neither transformers' (it has no model_type) nor timm's (it "
    'has no architecture), so that it cannot be obeyed: move it away if it is '
    'not about this file'
  )


def _export(path: pathlib.Path, content: _Export) -> ModelConfig:
  if content.encoder not in models.ENCODERS:
    raise ValueError(f'{path} says {content.encoder}: no encoder here')
  options = {name: getattr(content, name) for name in geometry.OPTIONS}
  variant = geometry.changed(models.ENCODERS[content.encoder], **options)
  traits = dataclasses.asdict(variant)
  return ModelConfig(str(path), content.encoder, traits)


def _hugging_face(path: pathlib.Path, content: _HuggingFace) -> ModelConfig:
  kind = content.model_type
  if kind not in _ACTIVATIONS:
    raise ValueError(
      f"{path} says that it is transformers' {kind}, which is no encoder here: "
      'ResNets, ConvNeXts and ViTs are'
    )
  act = content.hidden_act or _ACTIVATIONS[kind]
  model_config.require(path, 'hidden_act', act, _ACTIVATIONS[kind])
  model_config.require(path, 'num_channels', content.num_channels, 3)
  first = content.downsample_in_first_stage
  model_config.require(path, 'downsample_in_first_stage', first, False)
  traits = {'resnet': _resnet, 'convnext': _sizes, 'vit': _vit}[kind]
  image, notes = _preprocessor(path.parent / _PREPROCESSOR)
  if kind == 'vit':
    epsilon = content.layer_norm_eps
    if not 0 < epsilon <= _MAX_EPSILON:
      model_config.require(
        path, 'layer_norm_eps', epsilon, f'at most {_MAX_EPSILON}'
      )
    if epsilon != 1e-6:
      notes = (f'layer norms have epsilon 1e-06, not {epsilon:g}', *notes)
    if content.image_size:
      size = content.image_size
      size = size[0] if isinstance(size, list) else size
      image = {**image, 'image_size': size}
  labels = content.id2label
  return ModelConfig(
    str(path),
    f"transformers' {kind}",
    traits(content),
    num_classes=len(labels) if labels else None,
    image=image,
    notes=notes,
  )


def _sizes(content: _HuggingFace, divisor: int = 1) -> dict[str, Any]:
  """Depths and widths of the stages, where they are stated."""
  sizes = {}
  if content.depths:
    sizes['depths'] = tuple(content.depths)
  if content.hidden_sizes:
    sizes['widths'] = tuple(x // divisor for x in content.hidden_sizes)
  return sizes


def _resnet(content: _HuggingFace) -> dict[str, Any]:
  bottleneck = content.layer_type == 'bottleneck'
  traits = {
    **geometry.stem_fields('7x7'),
    'bottleneck': bottleneck,
    'output_stride': 32,
    'blur_activations': False,
  }
  if bottleneck:
    traits['stride_in_1x1'] = content.downsample_in_bottleneck
  return traits | _sizes(content, 4 if bottleneck else 1)


def _vit(content: _HuggingFace) -> dict[str, Any]:
  return {
    'width': content.hidden_size,
    'depth': content.num_hidden_layers,
    'num_heads': content.num_attention_heads,
    'patch': content.patch_size or 16,
    'pooling': 'token',
  }


def _preprocessor(
  path: pathlib.Path,
) -> tuple[dict[str, Any], tuple[str, ...]]:
  """Reads how images are prepared; see `model_config.image_fields`."""
  content = files.read_json(path, _Preprocessor, missing=_Preprocessor())
  size = content.size
  if isinstance(size, dict):
    size = size.get('shortest_edge') or size.get('height')
  # Pillow's numbers for the filters.
  names = {0: 'nearest', 1: 'lanczos', 3: 'bicubic'}
  return model_config.image_fields(
    content.image_mean,
    content.image_std,
    size if isinstance(size, int) else None,
    content.crop_pct or 1.0,
    names.get(content.resample, 'bilinear'),
  )
