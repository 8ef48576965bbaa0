"""Turns a model's arrays into a PyTorch state dict, and back, bit for bit."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from flax import nnx
from flax import traverse_util
import jax
import numpy as np

from mrl_jax import models
from mrl_jax.interop.pytorch import names
from mrl_jax.interop.pytorch.names import Style
from mrl_jax.models import residual

# The last part of a name, here and in PyTorch.
_LEAVES = {
  'kernel': 'weight',
  'scale': 'weight',
  'bias': 'bias',
  'mean': 'running_mean',
  'var': 'running_var',
}
_KINDS = nnx.Any(nnx.Param, nnx.BatchStat)
# Transposes a kernel by its rank: OIHW to HWIO, and OI to IO.
_AXES = {4: (2, 3, 1, 0), 2: (1, 0)}


class Slot(NamedTuple):
  """The place of one array of a PyTorch checkpoint in a model.

  Attributes:
    path: dotted path of our array within the encoder or the head.
    index: the part of our array that it fills.
    axes: transposes PyTorch's array to the order of our axes.
    shape: shape of PyTorch's array.
  """

  path: str
  index: tuple[slice | int, ...]
  axes: tuple[int, ...]
  shape: tuple[int, ...]


def to_torch(model: models.Classifier, style: Style) -> dict[str, np.ndarray]:
  """The model's arrays as a PyTorch state dict, which imports bit for bit.

  The encoder's keys are those of the style, with the buffers that the library
  keeps beside them. The heads are `fc.nesting_classifier_0` and so on, or `fc`
  for the fixed head, where `fc` stands for the style's name of the classifier.
  Raises ValueError for an unknown style, and for one without names for this
  encoder.
  """
  family = names.FAMILIES[names.family_of(model.encoder)]
  if style not in family.heads:
    right = tuple(family.heads)
    raise ValueError(f'style {style!r}: must be one of {right}')
  base = family.base if style == 'huggingface' else ''
  slots = encoder_slots(model.encoder, style)
  if base and blurs(model.encoder):
    raise ValueError('style huggingface: has no names for BlurPool, timm has')
  found = taken(model.encoder, slots)
  channels = {
    f'{path}.conv.kernel': conv.conv.in_features
    for path, conv in blurs(model.encoder).items()
  }
  for key in [*found]:
    if key.endswith('running_var'):
      name = key.replace('running_var', 'num_batches_tracked')
      found[name] = np.zeros((), np.int64)
    if style == 'timm' and key.endswith('.conv.weight'):
      name = key.removesuffix('conv.weight') + 'blur_filter'
      found[name] = blur_filter(channels[slots[key].path])
  found = {base + key: x for key, x in found.items()}
  prefix = family.heads[style]
  nested = model.head.kind != 'fixed'
  return found | taken(
    model.head, head_slots(model.head, prefix, nested=nested)
  )


def arrays(module: nnx.Module) -> dict[str, Any]:
  """The module's parameters and BatchNorm statistics, by dotted path."""
  state = nnx.to_pure_dict(nnx.state(module, _KINDS))
  flat = traverse_util.flatten_dict(state)
  return {'.'.join(map(str, path)): x for path, x in flat.items()}


def blurs(encoder: nnx.Module) -> dict[str, residual.Conv]:
  """The convolutions that blur before they stride, by dotted path."""
  return {
    '.'.join(map(str, path)): node
    for path, node in nnx.iter_modules(encoder)
    if isinstance(node, residual.Conv) and node.blur_stride
  }


def encoder_slots(encoder: nnx.Module, style: Style) -> dict[str, Slot]:
  """Slots of all the encoder's arrays, by PyTorch's key without a prefix."""
  family = names.FAMILIES[names.family_of(encoder)]
  blurring = blurs(encoder)
  slots = {}
  for path, x in arrays(encoder).items():
    module, _, leaf = path.rpartition('.')
    if leaf not in _LEAVES:
      module, leaf = path, ''
    keys = names.renamed(family, module, style)
    # In PyTorch BlurPool is a module around the convolution.
    wrapped = style == 'timm' and module.removesuffix('.conv') in blurring
    end = ('.conv' if wrapped else '') + (f'.{_LEAVES[leaf]}' if leaf else '')
    axes = _AXES[x.ndim] if leaf == 'kernel' else tuple(range(x.ndim))
    if style == 'torchvision' and module.endswith('.layer_scale'):
      axes = (1, 2, 0)  # torchvision's has shape [C, 1, 1].
    for i, key in enumerate(keys):
      width = x.shape[-1] // len(keys)
      part = (..., slice(i * width, (i + 1) * width))
      shape = (*[1] * (len(axes) - x.ndim), *x.shape[:-1], width)
      name = key + (end.removeprefix('.') if key.endswith('_') else end)
      slots[name] = Slot(
        path, part, axes, tuple(shape[axis] for axis in np.argsort(axes))
      )
  return slots


def head_slots(
  head: nnx.Module, prefix: str, *, nested: bool
) -> dict[str, Slot]:
  """Slots of all the heads' arrays, by PyTorch's key.

  With `nested` the keys are those of RAIVNLab's `MRL_Linear_Layer`, which
  numbers the heads (MRL-E has one); without, `prefix` is the one classifier.
  """
  classes = head.num_classes
  if head.kind != 'mrl':
    name = f'{prefix}.nesting_classifier_0' if nested else prefix
    width = head.nesting_dims[-1]
    return {
      f'{name}.weight': Slot('kernel', (...,), (1, 0), (classes, width)),
      f'{name}.bias': Slot('bias', (...,), (0,), (classes,)),
    }
  slots, start = {}, 0
  for i, width in enumerate(head.nesting_dims):
    name = f'{prefix}.nesting_classifier_{i}'
    rows = (slice(start, start + width),)
    slots[f'{name}.weight'] = Slot('kernel', rows, (1, 0), (classes, width))
    slots[f'{name}.bias'] = Slot('bias', (i,), (0,), (classes,))
    start += width
  return slots


def blur_filter(channels: int) -> np.ndarray:
  """BlurPool's filter as PyTorch's modules keep it, [C, 1, 3, 3]."""
  filter_3 = np.array([1, 2, 1], np.float32) / 4
  return np.tile(np.outer(filter_3, filter_3), (channels, 1, 1, 1))


def fill(
  module: nnx.Module,
  slots: Mapping[str, Slot],
  read: Callable[[str], np.ndarray],
) -> None:
  """Fills the module with the arrays that `read` returns for keys of `slots`.

  Arrays are read one at a time, so that they are never all in memory twice. The
  module may be abstract. Raises ValueError for an array of another shape.
  """
  parts = {}
  for key, slot in slots.items():
    parts.setdefault(slot.path, []).append((key, slot))
  filled = {}
  for path, x in arrays(module).items():
    whole = np.empty(x.shape, np.float32)
    for key, slot in parts[path]:
      array = read(key)
      if array.shape == (*slot.shape, 1, 1):
        # A linear layer that is a 1x1 convolution in PyTorch.
        array = array.reshape(slot.shape)
      if array.shape != slot.shape:
        raise ValueError(
          f'{key} has shape {array.shape} there, and must have {slot.shape}'
        )
      whole[slot.index] = array.transpose(slot.axes)
    filled[path] = jax.device_put(whole)
  state = nnx.to_pure_dict(nnx.state(module, _KINDS))
  flat = traverse_util.flatten_dict(state)
  flat = {path: filled['.'.join(map(str, path))] for path in flat}
  nnx.update(module, traverse_util.unflatten_dict(flat))


def taken(
  module: nnx.Module, slots: Mapping[str, Slot]
) -> dict[str, np.ndarray]:
  """The module's arrays as PyTorch has them, by the keys of `slots`."""
  values = {path: np.asarray(x) for path, x in arrays(module).items()}
  return {
    key: np.ascontiguousarray(
      values[slot.path][slot.index]
      .reshape([slot.shape[axis] for axis in slot.axes])
      .transpose(np.argsort(slot.axes))
    )
    for key, slot in slots.items()
  }
