"""Recognises which model a PyTorch checkpoint is of, from its keys."""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import re
from typing import Any

from mrl_jax import models
from mrl_jax.interop.pytorch import form
from mrl_jax.interop.pytorch import names as torch_keys
from mrl_jax.interop.pytorch import other_architectures
from mrl_jax.interop.pytorch import prefix as torch_prefix
from mrl_jax.interop.pytorch import variant as torch_variant
from mrl_jax.interop.pytorch.form import Form
from mrl_jax.interop.pytorch.model_config import Told
from mrl_jax.models import geometry

Shapes = Mapping[str, tuple[int, ...]]

# Parts of other people's training beside an encoder, which it does not need.
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
  told: Told | None = None,
  given: Mapping[str, Any] | None = None,
) -> Form:
  """The form of a state dict with tensors of these shapes.

  Args:
    shapes: by the keys of the file.
    prefix: of the network's keys, where the file has several networks.
    told: what a config.json beside the file says.
    given: the `geometry.OPTIONS` that the user has named.

  Raises:
    ValueError: it is of no encoder here, saying what it looks like, or
      contradicts `told` or `given`.
  """
  network = torch_prefix.find(shapes, prefix)
  family, style = torch_keys.FAMILIES[network.family], network.style
  raw = network.raw
  head_keys, head = _head(network, shapes)
  # What no number of the model depends on: the running count of batches, the
  # fixed filter, the layer behind the class token that no classifier reads,
  # and parts of the training.
  ignored = {
    key
    for key in raw
    if key.endswith(('.num_batches_tracked', '.blur_filter'))
    or key.startswith('pooler.')
    or _BESIDE.match(key)
  }
  keys = {
    key: name
    for key, name in raw.items()
    if key not in ignored and name not in head_keys.values()
  }
  other = _other(network, keys.values())
  try:
    encoder, options, variant, untold = _geometry(network, told, given or {})
  except ValueError as error:
    looks = f'it looks like {other}: ' if other else ''
    raise ValueError(f'{looks}{error}') from None
  used = {*raw.values(), *head_keys.values()}
  outside = [key for key in shapes if key not in used]
  if 'output_stride' in untold:
    _refuse_dilated(outside, shapes)
  classifier = form.classifier(head, family.heads[style] + '.')
  if _PROJECTS.search(network.prefix):
    classifier = None
  image_size = torch_variant.image_size(network.known)
  if told:
    told.check_sizes(classifier and classifier.num_classes, image_size)
  beside = [raw[key] for key in raw if _BESIDE.match(key)]
  if classifier is None:
    beside += head_keys.values()
  return Form(
    encoder=encoder,
    options=options,
    variant=variant,
    untold=untold,
    family=network.family,
    style=style,
    blurpool=any(key.endswith('.blur_filter') for key in raw),
    image_size=image_size,
    keys=keys,
    head_keys=head_keys,
    ignored=tuple(raw[key] for key in raw if key in ignored),
    classifier=classifier,
    prefix=_outer(network),
    left_out=_parts([*outside, *beside], network.prefix),
    told=told,
    other=other,
  )


def _other(network: torch_prefix.Network, keys: Iterable[str]) -> str:
  """The architecture that keys beside the table's give away; or empty."""
  table = network.keys()
  return other_architectures.architecture(
    [key for key in keys if key not in table]
  )


def _refuse_dilated(outside: Sequence[str], shapes: Shapes) -> None:
  if any(_SEGMENTS.search(key) and len(shapes[key]) == 4 for key in outside):
    raise ValueError(
      'it is the ResNet of a segmentation network, in which strides are most '
      'often replaced by dilation, and no array tells: give --output_stride=8, '
      '16 or 32 (output_stride in a config)'
    )


def _geometry(
  network: torch_prefix.Network, told: Told | None, given: Mapping[str, Any]
) -> tuple[str, dict[str, Any], Any, tuple[str, ...]]:
  """The encoder's name, options and variant; and its fields no one tells."""
  known = {**network.known}
  pools_first = known.pop('fc_norm', None)
  base = torch_variant.encoder_name(network.family, network.style, known)
  variant = models.ENCODERS[base]
  if pools_first:
    variant = dataclasses.replace(variant, pooling='mean_then_norm')
  unseen = geometry.unseen(variant)
  traits = {}
  if told:
    variant = told.applied(base, variant)
    traits |= told.traits
  chosen = geometry.changed(variant, **given)
  for field in dataclasses.fields(variant):
    before, after = (getattr(x, field.name) for x in (variant, chosen))
    if before != after and (field.name in traits or field.name not in unseen):
      who = told.source if told and field.name in traits else 'the file'
      raise ValueError(
        f'{", ".join(f"{k}={x}" for k, x in given.items() if x)}: {who} says '
        f'{field.name} {before}, not {after}'
      )
  named = geometry.named(chosen, given)
  untold = tuple(x for x in unseen if x not in traits and x not in named)
  return *geometry.find(chosen, base, models.ENCODERS), chosen, untold


def _outer(network: torch_prefix.Network) -> str:
  """The prefix without the name that transformers gives its base model."""
  base = torch_keys.FAMILIES[network.family].base
  is_theirs = network.style == 'huggingface'
  return network.prefix.removesuffix(base) if is_theirs else network.prefix


def _head(
  network: torch_prefix.Network, shapes: Shapes
) -> tuple[dict[str, str], Shapes]:
  """The classifier's keys in the file, and their shapes, by its own names.

  transformers has it beside the base model, all others inside.
  """
  family = torch_keys.FAMILIES[network.family]
  start = _outer(network)
  name = family.heads[network.style]
  encoder = network.keys()
  keys = {
    key.removeprefix(start): key
    for key in shapes
    if key.startswith(f'{start}{name}.') and key not in encoder
  }
  return keys, {key: shapes[raw] for key, raw in keys.items()}


def _parts(keys: Sequence[str], prefix: str) -> tuple[str, ...]:
  """The modules that the keys are of, as far as they differ from `prefix`."""
  inside, parts = prefix.split('.'), {}
  for key in keys:
    names = key.split('.')
    shared = 0
    while (
      shared < len(names) - 1 and names[: shared + 1] == (inside[: shared + 1])
    ):
      shared += 1
    parts['.'.join(names[: shared + 1])] = None
  return tuple(parts)
