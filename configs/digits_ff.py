"""`digits_mrl`'s fixed-feature baseline: one width, given after a colon.

python launch.py --config=configs/digits_ff.py:16
"""

from configs import digits_mrl
from configs import fixed_feature


def get_config(width: str = ''):
  return fixed_feature.of_width(digits_mrl.get_config(), width)
