"""Trains the fixed-feature baseline of `resnet50_mrl` at one width.

The width comes after a colon. Expected linear top-1 in percent (FF in the
paper's table 1): 76.87 at 2048. Not run here to the end: hardware and hours are
not measured.

    python launch.py --config=configs/resnet50_ff.py:512
"""

from configs import fixed_feature
from configs import resnet50_mrl


def get_config(width: str = ''):
  return fixed_feature.of_width(resnet50_mrl.get_config(), width)
