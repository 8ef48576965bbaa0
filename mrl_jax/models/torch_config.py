"""Reads the config.json that transformers and timm put beside a checkpoint."""

from collections.abc import Mapping, Sequence
import dataclasses
import os
import pathlib
import re
from typing import Any

import msgspec

from mrl_jax import files
from mrl_jax import models
from mrl_jax.models import geometry
from mrl_jax.models import resnet
from mrl_jax.models import vit

_NAME = 'config.json'
_PREPROCESSOR = 'preprocessor_config.json'
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
# The activations of each family, by transformers' names.
_ACTIVATIONS = {'resnet': 'relu', 'convnext': 'gelu', 'vit': 'gelu'}
# Above it, another epsilon of the layer norms would show in the embeddings.
_MOST_EPSILON = 1e-5


@dataclasses.dataclass(frozen=True)
class Told:
  """What a config.json says.

  Attributes:
    source: the file, and whose it is.
    model: its name there.
    traits: fields of a variant, at the values that it says.
    num_classes: of the classifier; None: not said.
    image: fields of a config that say how images are prepared.
    notes: what cannot be followed to the letter, and is small.
  """

  source: str
  model: str
  traits: Mapping[str, Any]
  num_classes: int | None = None
  image: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  notes: tuple[str, ...] = ()

  def applied(self, name: str, variant: Any) -> Any:
    """The variant of the arrays, named so, with what arrays do not show.

    Raises ValueError if the arrays contradict the rest.
    """
    unseen = geometry.unseen(variant)
    fields = dataclasses.asdict(variant)
    for trait, value in self.traits.items():
      if trait not in fields:
        self.refuse(f'says {self.model}, but its arrays are of {name}')
      if trait not in unseen and fields[trait] != value:
        self.refuse(
          f'says {self.model} with {trait} {value}, but its arrays are of '
          f'{name}, with {trait} {fields[trait]}'
        )
    return dataclasses.replace(
      variant, **{k: v for k, v in self.traits.items() if k in unseen}
    )

  def check_sizes(self, num_classes: int | None, image_size: int) -> None:
    """Raises ValueError if the file has other numbers than it says.

    The file's are None without a classifier, and 0 without positions.
    """
    if num_classes and self.num_classes not in (None, num_classes):
      self.refuse(
        f'says {self.num_classes} classes, but the classifier of the file has '
        f'{num_classes}'
      )
    told = self.image.get('image_size', image_size)
    if image_size and told != image_size:
      self.refuse(
        f'says images of {told} pixels, but the positions in the file are for '
        f'{image_size}'
      )

  def refuse(self, reason: str) -> None:
    raise ValueError(
      f'{self.source} {reason}: put the config.json of this file beside it, or '
      'move it away'
    )


class _HuggingFace(msgspec.Struct):
  """The fields of transformers' configs, with its defaults, that matter."""

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
  image_mean: list[float] | None = None
  image_std: list[float] | None = None
  crop_pct: float | None = None
  size: Any = None
  resample: int | None = None


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


class _Ours(msgspec.Struct):
  """An export of this project."""

  encoder: str
  stem: str = ''
  num_heads: int = 0
  pooling: str = ''
  output_stride: int = 0


def read(path: str | os.PathLike) -> Told | None:
  """What the config.json beside the file says; None if there is none.

  Raises ValueError if it is of an architecture, or has a trait, that is not
  known here, or is neither library's.
  """
  beside = pathlib.Path(path).parent / _NAME
  content = files.read_json(beside, missing={})
  if not content:
    return None
  if 'architecture' in content:
    return _timm(beside, files.read_json(beside, _Timm))
  if 'model_type' in content:
    return _hugging_face(beside, files.read_json(beside, _HuggingFace))
  if 'encoder' in content:
    return _ours(beside, files.read_json(beside, _Ours))
  raise ValueError(
    f"{beside} is neither transformers' (it has no model_type) nor timm's (it "
    'has no architecture), so that it cannot be obeyed: move it away if it is '
    'not about this file'
  )


def _ours(path: pathlib.Path, content: _Ours) -> Told | None:
  if content.encoder not in models.ENCODERS:
    raise ValueError(f'{path} says {content.encoder}: no encoder here')
  options = {name: getattr(content, name) for name in geometry.OPTIONS}
  variant = geometry.changed(models.ENCODERS[content.encoder], **options)
  return Told(str(path), content.encoder, dataclasses.asdict(variant))


def _hugging_face(path: pathlib.Path, content: _HuggingFace) -> Told:
  kind = content.model_type
  if kind not in _ACTIVATIONS:
    raise ValueError(
      f"{path} says that it is transformers' {kind}, which is no encoder here: "
      'ResNets, ConvNeXts and ViTs are'
    )
  act = content.hidden_act or _ACTIVATIONS[kind]
  _require(path, 'hidden_act', act, _ACTIVATIONS[kind])
  _require(path, 'num_channels', content.num_channels, 3)
  first = content.downsample_in_first_stage
  _require(path, 'downsample_in_first_stage', first, False)
  traits = {'resnet': _resnet, 'convnext': _convnext, 'vit': _vit}[kind]
  image, notes = _preprocessor(path.parent / _PREPROCESSOR)
  if kind == 'vit':
    epsilon = content.layer_norm_eps
    if not 0 < epsilon <= _MOST_EPSILON:
      _require(path, 'layer_norm_eps', epsilon, f'at most {_MOST_EPSILON}')
    if epsilon != 1e-6:
      notes = (f'layer norms have epsilon 1e-06, not {epsilon:g}', *notes)
    if content.image_size:
      size = content.image_size
      size = size[0] if isinstance(size, list) else size
      image = {**image, 'image_size': size}
  labels = content.id2label
  return Told(
    str(path),
    f"transformers' {kind}",
    traits(content),
    num_classes=len(labels) if labels else None,
    image=image,
    notes=notes,
  )


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
  if content.depths:
    traits['depths'] = tuple(content.depths)
  if content.hidden_sizes:
    by = 4 if bottleneck else 1
    traits['widths'] = tuple(x // by for x in content.hidden_sizes)
  return traits


def _convnext(content: _HuggingFace) -> dict[str, Any]:
  traits = {}
  if content.depths:
    traits['depths'] = tuple(content.depths)
  if content.hidden_sizes:
    traits['widths'] = tuple(content.hidden_sizes)
  return traits


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
  """How images are prepared, and what of it is done otherwise here."""
  content = files.read_json(path, _Preprocessor, missing=_Preprocessor())
  size = content.size
  if isinstance(size, dict):
    size = size.get('shortest_edge') or size.get('height')
  # Filters by Pillow's numbers: 3 is bicubic.
  names = {0: 'nearest', 1: 'lanczos', 3: 'bicubic'}
  return _image(
    content.image_mean,
    content.image_std,
    size if isinstance(size, int) else None,
    content.crop_pct or 1.0,
    names.get(content.resample, 'bilinear'),
  )


def _image(
  mean: Sequence[float] | None,
  std: Sequence[float] | None,
  size: int | None,
  crop: float | None,
  interpolation: str | None,
) -> tuple[dict[str, Any], tuple[str, ...]]:
  image = {}
  if mean and std:
    image = {'mean': tuple(mean), 'std': tuple(std)}
  if size:
    image['eval_image_size'] = size
    image['eval_resize'] = round(size / (crop or 0.875))
  notes = ()
  if interpolation not in (None, 'bilinear'):
    notes = (f'images are resized bilinearly, not {interpolation}',)
  return image, notes


def _timm(path: pathlib.Path, content: _Timm) -> Told:
  base = _timm_encoder(path, content.architecture)
  variant = models.ENCODERS[base]
  is_vit = isinstance(variant, vit.Variant)
  traits = dataclasses.asdict(variant)
  pool = content.model_args.get('global_pool', content.global_pool)
  if pool is not None:
    poolings = _POOLINGS if is_vit else {'avg': 'mean'}
    # Without pooling it is a backbone, of whatever is behind it.
    if pool not in (*poolings, ''):
      _require(path, 'global_pool', pool, ' or '.join(poolings))
    if is_vit and pool:
      traits['pooling'] = poolings[pool]
      # timm norms the mean, unless it is told to norm the tokens.
      if pool == 'avg' and content.model_args.get('fc_norm') is not False:
        traits['pooling'] = 'mean_then_norm'
  for name, value in content.model_args.items():
    traits |= _argument(path, name, value, variant)
  cfg = content.pretrained_cfg
  if cfg.crop_mode not in (None, 'center'):
    _require(path, 'pretrained_cfg.crop_mode', cfg.crop_mode, 'center')
  image, notes = _image(
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


def _timm_encoder(path: pathlib.Path, architecture: str) -> str:
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
    _require(path, f'model_args.{name}', value, _DEFAULTS[name])
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


def _require(path: pathlib.Path, name: str, value: Any, right: Any) -> None:
  if value != right:
    raise ValueError(f'{path} has {name} {value!r}: must be {right} here')
