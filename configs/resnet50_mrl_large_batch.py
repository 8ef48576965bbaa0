"""Trains `resnet50_mrl` at a global batch of 4096, for eight devices of 512.

The learning rate, 1.7, is four times that of a batch of 1024, as in FFCV. The
accuracy of `resnet50_mrl` is to be expected. Not run here to the end: hours are
not measured.

    python launch.py --config=configs/resnet50_mrl_large_batch.py
"""

from configs import resnet50_mrl


def get_config(epochs: str = '40'):
  config = resnet50_mrl.get_config(epochs)
  config.name = config.name.replace('resnet50_mrl', 'resnet50_mrl_large_batch')
  config.batch_size = 4096
  config.learning_rate = 1.7
  return config
