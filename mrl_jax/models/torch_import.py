"""Imports the parameters of a PyTorch checkpoint.

    python -m mrl_jax.models.torch_import FILE --out=DIR

writes them as a workdir, for `--config.init_from=DIR`. FILE is a ResNet of
torchvision, timm, Hugging Face's transformers or RAIVNLab/MRL (with or without
BlurPool, with MRL, MRL-E or fixed-feature heads), or a ConvNeXt or ViT of timm,
transformers or torchvision; `.safetensors`, or `.pt`, `.pth`, `.bin`,
`.pth.tar` and `.ckpt`, which need torch. A config.json of transformers or timm
beside the file is obeyed. What no file states is assumed, and printed; --stem,
--num_heads, --pooling and --output_stride change it. --prefix names one of
several networks in the file. An encoder without a classifier can be embedded
with, and measured by its neighbours (configs/imported.py). With --config the
workdir belongs to that config, so that --mode=evaluate and others can follow:

    python -m mrl_jax.models.torch_import FILE --out=DIR \\
      --config=configs/resnet50_mrl.py
    python launch.py --config=configs/resnet50_mrl.py --workdir=DIR \\
      --mode=evaluate,retrieve,report
"""

import argparse
from collections.abc import Sequence

from mrl_jax.models import geometry
from mrl_jax.stages import config as config_lib
from mrl_jax.stages import import_torch
from mrl_jax.terminal import arguments
from mrl_jax.terminal import config_names
from mrl_jax.terminal import ending


def main(argv: Sequence[str] | None = None) -> None:
  parser = argparse.ArgumentParser(
    prog='python -m mrl_jax.models.torch_import',
    description=__doc__.split('\n')[0],
  )
  add = parser.add_argument
  add(
    'file', type=arguments.path, help='a checkpoint of PyTorch, or .safetensors'
  )
  add('--out', type=arguments.path, required=True, help='the workdir to write')
  add('--config', help='a config that the model must fit')
  add(
    '--nesting_dims',
    type=arguments.wholes,
    default=(),
    help='8,16,…: widths of MRL-E, which no file states',
  )
  add('--prefix', default='', help="of the network's keys in a file of several")
  add(
    '--stem', default='', help='7x7, 3x3_stride1_pool, … where not 7x7_stride2'
  )
  add('--num_heads', type=int, default=0, help='heads of a vision transformer')
  add('--pooling', default='', help='token, mean or mean_then_norm')
  add('--output_stride', type=int, default=0, help='8 or 16: a dilated ResNet')
  args = parser.parse_args(argv)
  config_names.make_importable()
  with ending.in_one_line():
    import_torch.write(
      args.file,
      args.out,
      config=args.config and config_lib.read(config_names.path(args.config)),
      nesting_dims=args.nesting_dims,
      prefix=args.prefix,
      options={name: getattr(args, name) for name in geometry.OPTIONS},
    )


if __name__ == '__main__':
  main()
