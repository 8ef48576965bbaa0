"""Loads a PyTorch checkpoint into an encoder and its heads."""

from collections.abc import Mapping
import os
from typing import Any, NamedTuple

from flax import nnx
import numpy as np

from mrl_jax import models
from mrl_jax.interop.pytorch import arrays
from mrl_jax.interop.pytorch import config_json
from mrl_jax.interop.pytorch import file
from mrl_jax.interop.pytorch import names
from mrl_jax.interop.pytorch import recognise
from mrl_jax.interop.pytorch.contents import Contents
from mrl_jax.interop.pytorch.file import Stored
from mrl_jax.interop.pytorch.file import SUFFIXES
from mrl_jax.interop.pytorch.network import listed
from mrl_jax.models import geometry


def is_file(path: str | os.PathLike) -> bool:
  """Whether the path ends as the names of PyTorch's checkpoints do."""
  return str(path).endswith(SUFFIXES)


class PyTorchCheckpoint(NamedTuple):
  """An open PyTorch checkpoint.

  Attributes:
    path: the file.
    tensors: its tensors by name, which are read when they are needed.
    contents: what was recognised.
  """

  path: str | os.PathLike
  tensors: Mapping[str, Stored]
  contents: Contents

  def fill(
    self,
    model: models.Classifier,
    *,
    encoder: str,
    options: Mapping[str, Any] | None = None,
  ) -> bool:
    """Gives the model, which may be abstract, the parameters in the file.

    Every array of the encoder must be in the file, and every array of the
    file's encoder must be used. The head is filled if the file's has the same
    kind, widths and number of classes; otherwise it stays as it is.

    Args:
      model: the model to fill.
      encoder: the name of its encoder.
      options: the `geometry.OPTIONS` with which the encoder was made.

    Returns:
      Whether the head was filled.

    Raises:
      ValueError: the file holds another model, or values that are no weights.
    """
    contents, path = self.contents, self.path
    variant = geometry.changed(models.ENCODERS[encoder], **(options or {}))
    if not contents.fits(variant):
      given = [f', {k} {x}' for k, x in (options or {}).items() if x]
      raise ValueError(
        f'{path} looks like {contents}: needs {contents.flags()}, here it is '
        f'{encoder}{"".join(given)}'
      )
    if contents.blurpool != bool(arrays.blurs(model.encoder)):
      raise ValueError(
        f'{path} looks like {contents}: needs '
        f'--config.blurpool={contents.blurpool}'
      )
    for key in contents.blur_filters:
      found = self.tensors[key].weights(key)
      # The filter is exact in half precision, too.
      if not np.array_equal(found, arrays.blur_filter(len(found))):
        raise ValueError(f'{path}: {key} is not the filter [1 2 1] x [1 2 1]')
    slots = arrays.encoder_slots(model.encoder, contents.style)
    looks = contents.other or f'a {contents.family} of a kind not known here'
    self._fill(model.encoder, slots, contents.keys, looks)
    classifier = contents.classifier
    if classifier is None or model.head is None:
      return False
    if not classifier.fits(model.head):
      return False
    prefix = names.FAMILIES[contents.family].heads[contents.style]
    slots = arrays.head_slots(model.head, prefix, nested=classifier.nested)
    self._fill(model.head, slots, contents.head_keys, 'a classifier')
    return True

  def _fill(
    self,
    module: nnx.Module,
    slots: Mapping[str, arrays.Slot],
    keys: Mapping[str, str],
    looks: str,
  ) -> None:
    left_over = [name for key, name in keys.items() if key not in slots]
    unfilled = [
      f'{slot.path} ({key})' for key, slot in slots.items() if key not in keys
    ]
    if left_over or unfilled:
      raise ValueError(
        f'{self.path} looks like {looks}, and does not match. Left over in the '
        f'file: {listed(left_over) or "nothing"}. Left unfilled here, with the '
        f'key that is missing: {listed(unfilled) or "nothing"}'
      )
    read = lambda key: self.tensors[keys[key]].weights(keys[key])
    try:
      arrays.fill(module, slots, read)
    except ValueError as error:
      raise ValueError(f'{self.path}: {error}') from None


def load(
  path: str | os.PathLike,
  model: models.Classifier,
  *,
  encoder: str,
  prefix: str = '',
  options: Mapping[str, Any] | None = None,
) -> tuple[Contents, bool]:
  """Opens a checkpoint and fills the model: what it holds, and `fill`'s answer.

  See `open_checkpoint` and `PyTorchCheckpoint.fill` for arguments and errors.
  """
  checkpoint = open_checkpoint(path, prefix=prefix, options=options)
  has_head = checkpoint.fill(model, encoder=encoder, options=options)
  return checkpoint.contents, has_head


def open_checkpoint(
  path: str | os.PathLike,
  *,
  prefix: str = '',
  options: Mapping[str, Any] | None = None,
) -> PyTorchCheckpoint:
  """Opens a checkpoint, and recognises it by its keys and its config.json.

  Args:
    path: a file of a kind that `models.torch_import` lists.
    prefix: what precedes the network's keys, in a file of several networks.
    options: the `geometry.OPTIONS` that the user has given.

  Raises:
    ValueError: the file cannot be opened, or cannot be imported.
  """
  tensors = file.open_tensors(path)
  stated = config_json.read(path)
  try:
    contents = recognise.recognise(
      {key: x.shape for key, x in tensors.items()},
      prefix=prefix,
      config_json=stated,
      options=options,
    )
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from None
  return PyTorchCheckpoint(path, tensors, contents)
