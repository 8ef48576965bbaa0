"""Trains a ResNet-18 on ImageNet-1K with MRL at widths 8 to 512.

The recipe is that of `resnet50_mrl`. The paper has no such row, and it was not
run here to the end: hardware, hours and accuracy are not measured.

    python launch.py --config=configs/resnet18_mrl.py
"""

from configs import resnet50_mrl


def get_config(epochs: str = '40'):
  config = resnet50_mrl.get_config(epochs)
  config.name = config.name.replace('resnet50', 'resnet18')
  config.encoder = 'resnet18'
  config.nesting_dims = (8, 16, 32, 64, 128, 256, 512)
  return config
