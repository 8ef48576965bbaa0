"""Trains a ResNet-18 on your own images with MRL at widths 8 to 512.

`/path` holds `train/<class>/*` and `val/<class>/*`, or the class folders alone
(then a tenth of the images, chosen by a hash of their names, is for `val`). The
number of classes is read from it. Hours and accuracy depend on the images.

    python launch.py --config=configs/folder_mrl.py \\
      --config.dataset=folder:/path --workdir=runs/mine
"""

from configs import default


def get_config():
  config = default.get_config()
  config.name = 'folder_mrl'
  config.dataset = 'folder:'
  config.eval_split = 'val'
  config.encoder = 'resnet18'
  config.nesting_dims = (8, 16, 32, 64, 128, 256, 512)
  config.batch_size = 64
  config.learning_rate = 0.05
  config.eval_batch_size = 64
  return config
