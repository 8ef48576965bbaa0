"""`resnet50_mrl`'s slimmable baseline (arXiv 1812.08928), at MRL's recipe.

Networks of 1/4, 2/4, 3/4 and all of the channels share their weights; what is
measured are prefixes of the largest one's embedding, the paper's Slim. Net
(tables 1 and 2), which are of another recipe: linear top-1 0.42 at 8, 14.15 at
128 and 76.26 at 2048. A step has 1.9 times the products of `resnet50_mrl`. Not
yet run here to the end.

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
