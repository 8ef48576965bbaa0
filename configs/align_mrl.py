"""Trains ALIGN as the MRL paper has it, at widths 12 to 768.

The paper's third modality: ALIGN (arXiv 2102.05918) with a ViT-B/16 of images
and a BERT-Base of texts, on ALIGN's 1.8 billion pairs, which are not public
(arXiv 2205.13147, section 4 and appendix C): 1 million steps of 64 pairs a TPU
core, linear decay from 1e-3, here with 10,000 steps of warm-up as in ALIGN, at
a batch of 16,384, and with AdamW in place of Adafactor. The paper states no
temperature. Its k-NN on ImageNet-1K: 43.57 % at width 12, 56.44 at 24, 62.33 at
48, 65.72 at 96, 67.00 at 192, 67.70 at 384 and 67.85 at 768; ALIGN without
nesting 11.90 and 68.00 at the ends. Not run here.

    python launch.py --config=configs/align_mrl.py --workdir=runs/mine \\
      --config.dataset='shards/*.tar' --config.pairs.tokenizer=tokenizer.json \\
      --config.eval_sets="'zero_shot:imagenet2012@validation?neighbors=train'"
"""

from configs import clip_b16_mrl


def get_config():
  config = clip_b16_mrl.get_config()
  config.name = 'align_mrl'
  config.crop_scale = (0.7, 1.0)
  config.flip = True
  config.encoder = 'vit_b16'
  config.nesting_dims = (12, 24, 48, 96, 192, 384, 768)
  config.batch_size = 16384
  config.num_epochs = 10
  config.schedule = 'cyclic'
  config.learning_rate = 1e-3
  config.peak_epoch = 0.1
  config.betas = (0.9, 0.999)
  config.weight_decay = 1e-5
  config.pairs.text = 'bert'
  config.pairs.vocabulary_size = 30522
  config.pairs.max_tokens = 64
  config.pairs.width = 768
  return config
