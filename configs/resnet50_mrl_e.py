"""`resnet50_mrl` with MRL-E: one classifier, shared by all widths.

The paper's linear top-1 (table 1) is 56.66 at 8, 71.94 at 16, 74.48 at 32,
75.35 at 64, 75.80 at 128, 76.22 at 256, 76.36 at 512, 76.48 at 1024 and 76.51
at 2048. Not yet run here to the end.

    python launch.py --config=configs/resnet50_mrl_e.py
"""

from configs import resnet50_mrl


def get_config(epochs: str = '40'):
  config = resnet50_mrl.get_config(epochs)
  config.name = config.name.replace('resnet50_mrl', 'resnet50_mrl_e')
  config.head = 'mrl_e'
  return config
