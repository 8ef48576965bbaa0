"""Trains a small ResNet on scikit-learn's handwritten digits, without network.

MRL at widths 2 to 64 on 1,348 real 8x8 images, tested on 449 others; the paper
has no such row. All stages take about half a minute on two CPU cores. Expected
top-1 in percent: about 90 at 2, and 99.5 or more from 4 on.

    python launch.py --config=configs/digits_mrl.py
"""

from configs import default


def get_config():
  config = default.get_config()
  config.name = 'digits_mrl'
  config.dataset = 'digits'
  config.eval_split = 'test'
  config.image_size = 8
  config.eval_resize = 0
  config.eval_image_size = 8
  config.augmentation = 'shift'
  config.shift = 1
  config.flip = False
  config.mean = (0.3, 0.3, 0.3)
  config.std = (0.38, 0.38, 0.38)
  config.encoder = 'resnet8'
  config.dtype = 'float32'
  config.nesting_dims = (2, 4, 8, 16, 32, 64)
  config.batch_size = 64
  config.num_epochs = 30
  config.learning_rate = 0.05
  config.weight_decay = 5e-4
  config.eval_every_epochs = 10
  config.checkpoint_every_epochs = 10
  config.eval_batch_size = 256
  config.eval_dims = (3, 6, 12, 24, 48)
  return config
