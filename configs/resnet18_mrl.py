"""ResNet-18 on ImageNet-1K with MRL at widths 8 to 512.

The recipe of `resnet50_mrl`. Not yet run here to the end.

    python launch.py --config=configs/resnet18_mrl.py
"""

from configs import resnet50_mrl


def get_config():
  config = resnet50_mrl.get_config()
  config.name = 'resnet18_mrl'
  config.encoder = 'resnet18'
  config.nesting_dims = (8, 16, 32, 64, 128, 256, 512)
  return config
