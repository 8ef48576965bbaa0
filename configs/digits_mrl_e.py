"""`digits_mrl` with MRL-E: one classifier, shared by all widths.

python launch.py --config=configs/digits_mrl_e.py
"""

from configs import digits_mrl


def get_config():
  config = digits_mrl.get_config()
  config.name = 'digits_mrl_e'
  config.head = 'mrl_e'
  return config
