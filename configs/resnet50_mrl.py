"""ResNet-50 on ImageNet-1K with MRL at widths 8 to 2048, the paper's model.

The settings of the released checkpoints: SGD with momentum 0.9, learning rate
0.425 at a global batch of 1024, decay 1e-4, a triangular schedule over 40
epochs, label smoothing 0.1, BlurPool. The paper's linear top-1 (table 1) is
66.63 at 8, 73.53 at 16, 75.03 at 32, 75.82 at 64, 76.30 at 128, 76.47 at 256,
76.65 at 512, 76.76 at 1024 and 76.80 at 2048. It was trained at 160, then 192
pixels; this config has one resolution, 176. Not yet run here to the end.

    python launch.py --config=configs/resnet50_mrl.py
"""

from configs import default


def get_config():
  config = default.get_config()
  config.name = 'resnet50_mrl'
  config.input = 'stream'
  config.image_size = 176
  config.blurpool = True
  config.eval_every_epochs = 5
  return config
