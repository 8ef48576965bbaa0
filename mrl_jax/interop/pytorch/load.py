"""Loads a PyTorch checkpoint into an encoder and its heads."""

from collections.abc import Mapping
import os
from typing import Any

import numpy as np

from mrl_jax import models
from mrl_jax.interop.pytorch import arrays
from mrl_jax.interop.pytorch import config_json
from mrl_jax.interop.pytorch import file
from mrl_jax.interop.pytorch import names
from mrl_jax.interop.pytorch import recognise as torch_recognition
from mrl_jax.interop.pytorch.file import Stored
from mrl_jax.interop.pytorch.file import SUFFIXES
from mrl_jax.interop.pytorch.form import Form
from mrl_jax.interop.pytorch.prefix import listed
from mrl_jax.models import geometry


def is_file(path: str | os.PathLike) -> bool:
  """Whether the path is named as PyTorch's checkpoints are."""
  return str(path).endswith(SUFFIXES)


def recognise(
  path: str | os.PathLike,
  *,
  prefix: str = '',
  options: Mapping[str, Any] | None = None,
) -> Form:
  """What the file holds, from its keys and the config.json beside it.

  `prefix` and `options` are as in `load`. Raises ValueError if the file cannot
  be imported.
  """
  with file.open_tensors(path) as stored:
    return _form(stored, path, prefix, options)


def load(
  path: str | os.PathLike,
  model: models.Classifier,
  *,
  encoder: str,
  prefix: str = '',
  options: Mapping[str, Any] | None = None,
) -> tuple[Form, bool]:
  """Gives the model, which may be abstract, the parameters in the file.

  The encoder's must match the file's without a rest on either side. The head's
  are taken over if its kind, widths and classes are the same; else it stays as
  it is.

  Args:
    path: of a form that the module's text lists.
    model: what is filled.
    encoder: the name of its encoder.
    prefix: what precedes the network's keys, in a file with several networks.
    options: the `geometry.OPTIONS` with which the encoder was made.

  Returns:
    What the file holds, and whether the head was taken over.

  Raises:
    ValueError: the file cannot be read, or is of another model.
  """
  with file.open_tensors(path) as stored:
    form = _form(stored, path, prefix, options)
    variant = geometry.changed(models.ENCODERS[encoder], **(options or {}))
    if not form.fits(variant):
      raise ValueError(
        f'{path} looks like {form}: needs {form.needs()}, here it is {encoder}'
        + _with(options)
      )
    if form.blurpool != arrays.has_blurpool(model.encoder):
      raise ValueError(
        f'{path} looks like {form}: needs --config.blurpool={form.blurpool}'
      )
    _check_filters(form, stored, path)
    slots = arrays.encoder_slots(model.encoder, form.style)
    looks = form.other or f'a {form.family} of a kind not known here'
    _fill(model.encoder, slots, form.keys, stored, path, looks)
    fits = (
      form.classifier is not None
      and model.head is not None
      and form.classifier.fits(model.head)
    )
    if fits:
      slots = arrays.head_slots(
        model.head,
        names.FAMILIES[form.family].heads[form.style],
        nested=form.classifier.nested,
      )
      _fill(model.head, slots, form.head_keys, stored, path, 'a classifier')
  return form, fits


def _form(
  stored: Mapping[str, Stored],
  path: str | os.PathLike,
  prefix: str,
  options: Mapping[str, Any] | None,
) -> Form:
  told = config_json.read(path)
  try:
    return torch_recognition.recognise(
      {key: x.shape for key, x in stored.items()},
      prefix=prefix,
      told=told,
      given=options,
    )
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from None


def _with(options: Mapping[str, Any] | None) -> str:
  return ''.join(f', {k} {x}' for k, x in (options or {}).items() if x)


def _check_filters(form: Form, stored: Mapping[str, Stored], path) -> None:
  for key in form.ignored:
    if key.endswith('.blur_filter'):
      found = stored[key].weights(key)
      # Half precision has it exactly, too.
      if not np.array_equal(found, arrays.blur_filter(len(found))):
        raise ValueError(f'{path}: {key} is not the filter [1 2 1] x [1 2 1]')


def _fill(
  module,
  slots,
  keys: Mapping[str, str],
  stored: Mapping[str, Stored],
  path,
  looks: str,
) -> None:
  left_over = [name for key, name in keys.items() if key not in slots]
  unfilled = [
    f'{slot.path} ({key})' for key, slot in slots.items() if key not in keys
  ]
  if left_over or unfilled:
    raise ValueError(
      f'{path} looks like {looks}, and does not match. Left over in the file: '
      f'{listed(left_over) or "nothing"}. Left unfilled here, with the key '
      f'that is missing: {listed(unfilled) or "nothing"}'
    )
  try:
    arrays.fill(module, slots, lambda key: stored[keys[key]].weights(keys[key]))
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from None
