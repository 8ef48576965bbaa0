"""Trains the fixed-feature baseline of `digits_mrl`: one width, after a colon.

Compare with FF in the paper's tables 1 and 2. Takes half a minute on two CPU
cores. Expected top-1 in percent: 87 at 2, 99 at 4, and 99.5 or more from 8 on.

    python launch.py --config=configs/digits_ff.py:16
"""

from configs import digits_mrl
from configs import fixed_feature


def get_config(width: str = ''):
  return fixed_feature.of_width(digits_mrl.get_config(), width)
