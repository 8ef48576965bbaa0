"""Recognises which model a PyTorch checkpoint is of, from keys and shapes."""

from collections.abc import Mapping, Sequence
import dataclasses
import re
from typing import Any

from mrl_jax import models
from mrl_jax.interop.pytorch import names
from mrl_jax.interop.pytorch import network as networks
from mrl_jax.interop.pytorch import other_architectures
from mrl_jax.interop.pytorch import variant as variants
from mrl_jax.interop.pytorch.contents import Classifier
from mrl_jax.interop.pytorch.contents import Contents
from mrl_jax.interop.pytorch.contents import Shapes
from mrl_jax.interop.pytorch.model_config import ModelConfig
from mrl_jax.interop.pytorch.network import Network
from mrl_jax.models import geometry

# Modules of self-supervised training beside an encoder, which does not need
# them.
_BESIDE = re.compile(
  r'(projection_head|projector|prototypes|predictor|queue|queue_ptr|center|'
  r'mask_token|decoder_\w+)(\.|$)'
)
# Encoders of contrastive learning, whose `fc` projects and does not classify.
_PROJECTS = re.compile(r'(^|\.)(encoder_[qk]|base_encoder|momentum_encoder)\.$')
# Heads of a segmentation network, whose ResNet may be dilated.
_SEGMENTS = re.compile(r'(^|\.)(aux_classifier|decode_head|classifier)\.')


def recognise(
  shapes: Shapes,
  *,
  prefix: str = '',
  config_json: ModelConfig | None = None,
  options: Mapping[str, Any] | None = None,
) -> Contents:
  """Recognises a state dict by its keys and the shapes of its tensors.

  `prefix` and `options` are those of `load.open_checkpoint`. Raises ValueError
  if no encoder here has these tensors (the message says what they look like),
  or they contradict `config_json` or `options`.
  """
  network = networks.find(shapes, prefix)
  raw = network.raw
  head_keys = network.head_keys(shapes)
  head_shapes = {key: shapes[name] for key, name in head_keys.items()}
  blur_filters = tuple(raw[key] for key in raw if key.endswith('.blur_filter'))
  beside = [raw[key] for key in raw if _BESIDE.match(key)]
  unneeded = {*beside, *blur_filters, *head_keys.values()}
  keys = {
    key: name
    for key, name in raw.items()
    if name not in unneeded
    # BatchNorm's count of batches, and the layer that transformers has behind
    # the class token, which no classifier reads.
    and not key.endswith('.num_batches_tracked')
    and not key.startswith('pooler.')
  }
  table = network.keys()
  other = other_architectures.architecture(
    [name for name in keys.values() if name not in table]
  )
  try:
    found = _geometry(network, config_json, options or {})
  except ValueError as error:
    looks = f'it looks like {other}: ' if other else ''
    raise ValueError(f'{looks}{error}') from None
  used = {*raw.values(), *head_keys.values()}
  outside = [key for key in shapes if key not in used]
  if 'output_stride' in found['unstated']:
    _refuse_dilated(outside, shapes)
  head_name = names.FAMILIES[network.family].heads[network.style]
  classifier = None
  if not _PROJECTS.search(network.prefix):
    classifier = Classifier.read(head_shapes, head_name + '.')
  if classifier is None:
    beside += head_keys.values()
  image_size = variants.image_size(network.known)
  if config_json:
    num_classes = classifier and classifier.num_classes
    config_json.check_sizes(num_classes, image_size)
  return Contents(
    **found,
    family=network.family,
    style=network.style,
    blur_filters=blur_filters,
    image_size=image_size,
    keys=keys,
    head_keys=head_keys,
    classifier=classifier,
    prefix=network.outer_prefix,
    left_out=_modules([*outside, *beside], network.prefix),
    config_json=config_json,
    other=other,
  )


def _refuse_dilated(outside: Sequence[str], shapes: Shapes) -> None:
  if any(_SEGMENTS.search(key) and len(shapes[key]) == 4 for key in outside):
    raise ValueError(
      'it is the ResNet of a segmentation network, in which strides are most '
      'often replaced by dilation, and no array tells: give --output_stride=8, '
      '16 or 32 (output_stride in a config)'
    )


def _geometry(
  network: Network,
  config_json: ModelConfig | None,
  options: Mapping[str, Any],
) -> dict[str, Any]:
  """Finds the encoder by shapes, config.json and the user's options.

  Returns the fields of `Contents` that say which it is.
  """
  known = network.known
  base = variants.encoder_name(network.family, network.style, known)
  variant = models.ENCODERS[base]
  if 'fc_norm' in known:
    variant = dataclasses.replace(variant, pooling='mean_then_norm')
  unseen = geometry.unseen(variant)
  stated = {}
  if config_json:
    variant = config_json.applied(base, variant)
    stated = config_json.traits
  chosen = geometry.changed(variant, **options)
  for field in dataclasses.fields(variant):
    before, after = (getattr(x, field.name) for x in (variant, chosen))
    if before != after and (field.name in stated or field.name not in unseen):
      who = config_json.source if field.name in stated else 'the file'
      given = ', '.join(f'{k}={x}' for k, x in options.items() if x)
      raise ValueError(
        f'{given}: {who} says {field.name} {before}, not {after}'
      )
  stated = {*stated, *geometry.fields_set(options)}
  unstated = tuple(name for name in unseen if name not in stated)
  encoder, needed = geometry.find(chosen, base, models.ENCODERS)
  return {
    'encoder': encoder,
    'options': needed,
    'variant': chosen,
    'unstated': unstated,
  }


def _modules(keys: Sequence[str], prefix: str) -> tuple[str, ...]:
  """The modules of the keys, each named down to where `prefix` is left."""
  inside, modules = prefix.split('.'), {}
  for key in keys:
    parts = key.split('.')
    shared = 0
    while (
      shared < len(parts) - 1 and parts[: shared + 1] == (inside[: shared + 1])
    ):
      shared += 1
    modules['.'.join(parts[: shared + 1])] = None
  return tuple(modules)
