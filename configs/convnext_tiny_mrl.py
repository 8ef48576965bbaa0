"""Trains a ConvNeXt-T on ImageNet-1K with MRL at widths 12 to 768.

The recipe is that of the ConvNeXt paper (arXiv 2201.03545, appendix A.1, table
5): AdamW with betas 0.9 and 0.999, learning rate 4e-3 at a global batch of
4096, weight decay 0.05 (here of kernels only, as in its code), 300 epochs,
cosine after 20 epochs of linear warm-up, label smoothing 0.1, stochastic depth
0.1, layer scale 1e-6. Its mixup, cutmix, RandAugment, random erasing and moving
average of the weights are not implemented, so that less than its 82.1 % top-1
is to be expected at the full width. The widths are those of AdANNS (arXiv
2305.19435), whose ConvNeXt-T has a 1-NN accuracy of about 75.1 % at 768. The
embedding is the pooled and normed one. Not run here yet: hardware, hours and
accuracy are not measured.

    python launch.py --config=configs/convnext_tiny_mrl.py

On few devices --config.micro_batches and --config.remat save memory.
"""

from configs import default


def get_config():
  config = default.get_config()
  config.name = 'convnext_tiny_mrl'
  config.input = 'stream'
  config.encoder = 'convnext_tiny'
  config.nesting_dims = (12, 24, 48, 96, 192, 384, 768)
  config.drop_path = 0.1
  config.batch_size = 4096
  config.num_epochs = 300
  config.optimizer = 'adamw'
  config.learning_rate = 4e-3
  config.weight_decay = 0.05
  config.decay_mask = 'no_norm_no_bias'
  config.schedule = 'cosine'
  config.peak_epoch = 20.0
  config.eval_every_epochs = 10
  return config
