"""Trains `digits_mrl` with MRL-E: one classifier, shared by all widths.

Compare with MRL-E in the paper's tables 1 and 2. Takes half a minute on two CPU
cores. Expected top-1 in percent: 74 at 2, 99 at 4, and 99.7 or more from 8 on.

    python launch.py --config=configs/digits_mrl_e.py
"""

from configs import digits_mrl


def get_config():
  config = digits_mrl.get_config()
  config.name = 'digits_mrl_e'
  config.head = 'mrl_e'
  return config
