"""Trains `resnet50_mrl` with MRL-E: one classifier, shared by all widths.

Expected linear top-1 in percent (MRL-E in the paper's table 1): 56.66 at 8,
71.94 at 16, 74.48 at 32, 75.35 at 64, 75.80 at 128, 76.22 at 256, 76.36 at 512,
76.48 at 1024 and 76.51 at 2048. Not run here to the end: hardware and hours are
not measured.

    python launch.py --config=configs/resnet50_mrl_e.py
"""

from configs import resnet50_mrl


def get_config(epochs: str = '40'):
  config = resnet50_mrl.get_config(epochs)
  config.name = config.name.replace('resnet50_mrl', 'resnet50_mrl_e')
  config.head = 'mrl_e'
  return config
