"""`digits_mrl`'s fixed-feature baseline: one width, given after a colon.

Half a minute on two CPU cores. Top-1 to expect, in percent: 87 at 2, 99 at 4,
and 99.5 or more from 8 on.

python launch.py --config=configs/digits_ff.py:16
"""

from configs import digits_mrl
from configs import fixed_feature


def get_config(width: str = ''):
  return fixed_feature.of_width(digits_mrl.get_config(), width)
