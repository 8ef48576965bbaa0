"""Trains the slimmable baseline (arXiv 1812.08928) of `resnet50_mrl`.

Networks of 1/4, 2/4, 3/4 and all of the channels share their weights. Measured
are prefixes of the largest one's embedding. The paper's Slim. Net (tables 1 and
2) was trained by another recipe: linear top-1 in percent of 0.42 at 8, 14.15 at
128 and 76.26 at 2048. A step has 1.9 times the products of `resnet50_mrl`. Not
run here to the end: hardware, hours and accuracy are not measured.

    python launch.py --config=configs/resnet50_slimmable.py
"""

from configs import resnet50_mrl


def get_config(epochs: str = '40'):
  config = resnet50_mrl.get_config(epochs)
  config.name = config.name.replace('resnet50_mrl', 'resnet50_slimmable')
  config.head = 'mrl_e'
  config.slimmable = True
  config.nesting_dims = (512, 1024, 1536, 2048)
  config.eval_dims = (8, 16, 32, 64, 128, 256)
  return config
