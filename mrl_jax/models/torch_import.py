"""Takes over the parameters of a PyTorch checkpoint.

    python -m mrl_jax.models.torch_import FILE --out=DIR

writes them as a workdir, for `--config.init_from=DIR`. FILE is a ResNet of
torchvision, timm, Hugging Face's transformers or RAIVNLab/MRL (with or without
BlurPool, with MRL, MRL-E or fixed-feature heads), or a ConvNeXt or ViT of timm,
transformers or torchvision; `.safetensors`, or `.pt`, `.pth`, `.bin`,
`.pth.tar` and `.ckpt`, which need torch. A config.json of transformers or timm
beside the file is obeyed. What no file tells is assumed and printed; --stem,
--num_heads, --pooling and --output_stride say otherwise. --prefix names one of
several networks in the file. An encoder without a classifier is embedded with,
and measured by its neighbours (configs/imported.py). With --config the workdir
is one of that config, which --mode=evaluate and the like then go on with:

    python -m mrl_jax.models.torch_import FILE --out=DIR \\
      --config=configs/resnet50_mrl.py
    python launch.py --config=configs/resnet50_mrl.py --workdir=DIR \\
      --mode=evaluate,retrieve,report
"""

import argparse
from collections.abc import Mapping, Sequence
import os
from typing import Any

import numpy as np

from mrl_jax import arguments
from mrl_jax import ending
from mrl_jax import models
from mrl_jax.models import geometry
from mrl_jax.models import torch_arrays
from mrl_jax.models import torch_config
from mrl_jax.models import torch_file
from mrl_jax.models import torch_keys
from mrl_jax.models import torch_recognition
from mrl_jax.models.torch_file import Stored
from mrl_jax.models.torch_file import SUFFIXES
from mrl_jax.models.torch_form import Form
from mrl_jax.models.torch_prefix import listed


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
  with torch_file.open_tensors(path) as stored:
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
  with torch_file.open_tensors(path) as stored:
    form = _form(stored, path, prefix, options)
    variant = geometry.changed(models.ENCODERS[encoder], **(options or {}))
    if not form.fits(variant):
      raise ValueError(
        f'{path} looks like {form}: needs {form.needs()}, here it is {encoder}'
        + _with(options)
      )
    if form.blurpool != torch_arrays.has_blurpool(model.encoder):
      raise ValueError(
        f'{path} looks like {form}: needs --config.blurpool={form.blurpool}'
      )
    _check_filters(form, stored, path)
    slots = torch_arrays.encoder_slots(model.encoder, form.style)
    looks = form.other or f'a {form.family} of a kind not known here'
    _fill(model.encoder, slots, form.keys, stored, path, looks)
    fits = (
      form.classifier is not None
      and model.head is not None
      and form.classifier.fits(model.head)
    )
    if fits:
      slots = torch_arrays.head_slots(
        model.head,
        torch_keys.FAMILIES[form.family].heads[form.style],
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
  told = torch_config.read(path)
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
      if not np.array_equal(found, torch_arrays.blur_filter(len(found))):
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
    torch_arrays.fill(
      module, slots, lambda key: stored[keys[key]].weights(keys[key])
    )
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from None


def main(argv: Sequence[str] | None = None) -> None:
  # The command stands above the stages; the functions above do not.
  from mrl_jax.stages import imported

  parser = argparse.ArgumentParser(
    prog='python -m mrl_jax.models.torch_import',
    description=__doc__.split('\n')[0],
  )
  add = parser.add_argument
  add('file', type=arguments.path, help='of PyTorch, or .safetensors')
  add('--out', type=arguments.path, required=True, help='the workdir to write')
  add('--config', help='a config that it is to fit, as for launch.py')
  add(
    '--nesting_dims',
    type=arguments.wholes,
    default=(),
    help='8,16,…: of MRL-E, which the file does not tell',
  )
  add('--prefix', default='', help='of the keys, in a file of several networks')
  add(
    '--stem', default='', help='7x7, 3x3_stride1_pool, … where not 7x7_stride2'
  )
  add('--num_heads', type=int, default=0, help='of a vision transformer')
  add('--pooling', default='', help='token, mean or mean_then_norm')
  add('--output_stride', type=int, default=0, help='8 or 16: a dilated ResNet')
  args = parser.parse_args(argv)
  with ending.in_one_line():
    imported.write(
      args.file,
      args.out,
      config=args.config and imported.read_config(args.config),
      nesting_dims=args.nesting_dims,
      prefix=args.prefix,
      options={name: getattr(args, name) for name in geometry.OPTIONS},
    )


if __name__ == '__main__':
  main()
