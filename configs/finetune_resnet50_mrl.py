"""Fine-tunes a trained ResNet-50 with fresh MRL heads at widths 8 to 2048.

    python launch.py --config=configs/finetune_resnet50_mrl.py \\
      --config.init_from=runs/resnet50_ff_2048

The encoder is that of another run, or of a file of PyTorch. The parts that
train come after a colon, as in `configs/finetune_resnet50_mrl.py:head`; left
out, they are the last block and the heads. The paper tunes FF-2048 at a
learning rate of 0.1 for 10 epochs, else by the recipe of `resnet50_mrl`.
Expected linear top-1 in percent at the widths 8 to 2048 (the paper's table 26):

    head                                  5.15 13.79 32.52 52.66 64.60 69.29
                                         70.51 70.19 69.72
    layer4.2.conv3, head                 36.11 58.42 67.81 72.42 74.41 75.30
                                         75.96 76.18 76.44
    layer4.2.conv2, layer4.2.conv3, head 54.78 67.26 71.62 73.61 74.67 75.23
                                         75.47 75.70 75.96
    layer4.2, head                       60.02 70.10 72.84 74.29 75.03 75.38
                                         75.64 75.75 75.97

Not run here yet: hardware and hours are not measured.
"""

from configs import resnet50_mrl


def get_config(trainable: str = 'layer4.2, head'):
  config = resnet50_mrl.get_config()
  parts = tuple(part.strip() for part in trainable.split(','))
  config.name = '_'.join(('finetune_resnet50_mrl', *parts))
  config.trainable = parts
  config.learning_rate = 0.1
  config.num_epochs = 10
  config.late_epoch = 8
  return config
