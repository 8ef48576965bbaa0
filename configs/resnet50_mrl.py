"""Trains a ResNet-50 on ImageNet-1K with MRL at widths 8 to 2048.

This is the paper's model, with the settings of the released checkpoints: SGD
with momentum 0.9, learning rate 0.425 at a global batch of 1024 (linear in the
batch: 1.7 at 4096), weight decay 1e-4, a triangular schedule over 40 epochs,
label smoothing 0.1, BlurPool, images of 160 pixels, and 192 for the last fifth.
Expected linear top-1 in percent (MRL in the paper's table 1): 66.63 at 8, 73.53
at 16, 75.03 at 32, 75.82 at 64, 76.30 at 128, 76.47 at 256, 76.65 at 512, 76.76
at 1024 and 76.80 at 2048. Like `val/top1` it is measured at 224 pixels, cut
from 256; `val_flip/top1`, at 256 with mirror images, compares with the released
training logs. Not run here to the end: hardware and hours are not measured.

Another number of epochs comes after a colon, one of those that FFCV's ResNet-50
configs have.

    python launch.py --config=configs/resnet50_mrl.py
    python launch.py --config=configs/resnet50_mrl.py:16
"""

from configs import default

# The first epoch at 192 pixels, by number of epochs (FFCV's ramps, rounded to
# multiples of 32 pixels as there).
LATE_EPOCHS = {16: 12, 24: 19, 32: 25, 40: 32, 56: 45, 88: 71}


def get_config(epochs: str = '40'):
  if epochs not in map(str, LATE_EPOCHS):
    raise ValueError(f'epochs {epochs!r}: must be one of {[*LATE_EPOCHS]}')
  config = default.get_config()
  config.name = 'resnet50_mrl' + (f'_{epochs}' if epochs != '40' else '')
  config.input = 'stream'
  config.num_epochs = int(epochs)
  config.image_size = 160
  config.late_image_size = 192
  config.late_epoch = LATE_EPOCHS[config.num_epochs]
  # The central 224/256 of the shorter side, as FFCV cuts it.
  config.flip_eval_image_size = 256
  config.flip_eval_resize = 293
  config.blurpool = True
  config.eval_every_epochs = 5
  return config
