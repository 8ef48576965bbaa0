"""Trains a ViT-B/16 on ImageNet-1K with MRL at widths 12 to 768.

The recipe is that of DeiT (arXiv 2012.12877, table 9): AdamW, learning rate
1e-3 at a global batch of 1024 (5e-4 for each 512), weight decay 0.05 (of
kernels only), 300 epochs, cosine after 5 epochs of linear warm-up, label
smoothing 0.1, stochastic depth 0.1, no dropout. Its mixup, cutmix, RandAugment,
random erasing and repeated augmentation are not implemented. DeiT says that
transformers need them, so that far less than its 81.8 % top-1 is to be expected
at the full width. The MRL paper trains its ViT-B/16 at these widths on JFT-300M
instead, with Adafactor. The embedding is the class token after the last norm.
Not run here yet: hardware, hours and accuracy are not measured.

    python launch.py --config=configs/vit_b16_mrl.py

--config.init_from=FILE starts from trained weights in PyTorch's form.
"""

from configs import default


def get_config():
  config = default.get_config()
  config.name = 'vit_b16_mrl'
  config.input = 'stream'
  config.encoder = 'vit_b16'
  config.nesting_dims = (12, 24, 48, 96, 192, 384, 768)
  config.drop_path = 0.1
  config.num_epochs = 300
  config.optimizer = 'adamw'
  config.learning_rate = 1e-3
  config.weight_decay = 0.05
  config.decay_mask = 'no_norm_no_bias'
  config.schedule = 'cosine'
  config.peak_epoch = 5.0
  config.eval_every_epochs = 10
  return config
