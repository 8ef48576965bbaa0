"""Trains SigLIP's ViT-B/16 with MRL at widths 12 to 768, on pairs of your own.

The recipe is SigLIP's (arXiv 2303.15343, section 4 and appendix): the sigmoid
loss with a learned temperature and bias, from 10 and -10 on, global batch
32,768, learning rate 1e-3, weight decay 1e-4, second beta 0.95, 224 pixels in
[-1, 1], texts of 64 tokens. AdamW stands in for its Adafactor, and a tenth of
an epoch for its warm-up; its nine billion examples of WebLI are not public. The
MRL paper has no such row. Not run here: accuracy and hours are not measured.

    python launch.py --config=configs/siglip_b16_mrl.py --workdir=runs/mine \\
      --config.dataset='shards/*.tar' --config.pairs.tokenizer=tokenizer.json \\
      --config.eval_sets="'zero_shot:imagenet2012@validation?templates=a {}'"

`--config.init_from.image=FOLDER --config.init_from.text=FOLDER` starts from
Hugging Face's google/siglip-base-patch16-224, tokenizer included.
"""

from configs import clip_b16_mrl


def get_config():
  config = clip_b16_mrl.get_config()
  config.name = 'siglip_b16_mrl'
  config.mean = (0.5, 0.5, 0.5)
  config.std = (0.5, 0.5, 0.5)
  config.encoder = 'siglip_b16'
  config.nesting_dims = (12, 24, 48, 96, 192, 384, 768)
  config.learning_rate = 1e-3
  config.peak_epoch = 0.1
  config.betas = (0.9, 0.95)
  config.weight_decay = 1e-4
  config.pairs.objective = 'sigmoid'
  config.pairs.text = 'siglip'
  config.pairs.vocabulary_size = 32000
  config.pairs.max_tokens = 64
  config.pairs.projections = ('text',)
  config.pairs.width = 768
  return config
