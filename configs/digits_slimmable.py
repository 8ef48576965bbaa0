"""Trains the slimmable baseline (arXiv 1812.08928) of `digits_mrl`.

Networks of 1/4, 2/4, 3/4 and all of the channels share their weights. Measured
are prefixes of the largest one's embedding, which the paper calls Slim. Net in
tables 1 and 2. Takes a minute on two CPU cores; no accuracy is recorded for it.

    python launch.py --config=configs/digits_slimmable.py
"""

from configs import digits_mrl


def get_config():
  config = digits_mrl.get_config()
  config.name = 'digits_slimmable'
  config.head = 'mrl_e'
  config.slimmable = True
  config.nesting_dims = (16, 32, 48, 64)
  config.eval_dims = (2, 4, 8)
  return config
