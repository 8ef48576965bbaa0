"""Trains CLIP's ViT-B/16 with MRL at widths 8 to 512, on pairs of your own.

The recipe is CLIP's (arXiv 2103.00020, section 2.5, tables 18 and 19): global
batch 32,768, 32 epochs, AdamW with weight decay 0.2 of kernels and embeddings,
learning rate 5e-4 after 2,000 steps of warm-up, cosine, betas 0.9 and 0.98,
bfloat16, 224 pixels, random crops alone, temperature from 0.07 on. The warm-up
is written as a share of an epoch of its 400 million pairs, which are not
public; epsilon is 1e-8, not 1e-6. Its ViT-L/14 took 256 V100s 12 days. The MRL
paper has no such row. Not run here: accuracy and hours are not measured.

    python launch.py --config=configs/clip_b16_mrl.py --workdir=runs/mine \\
      --config.dataset='shards/*.tar' --config.pairs.tokenizer=tokenizer.json \\
      --config.eval_sets="'zero_shot:imagenet2012@validation?templates=a {}'"

`--config.init_from.image=FOLDER --config.init_from.text=FOLDER` starts from
Hugging Face's openai/clip-vit-base-patch16, tokenizer included.
"""

from configs import emoji_clip_mrl


def get_config():
  config = emoji_clip_mrl.get_config()
  config.name = 'clip_b16_mrl'
  config.modes = ('train', 'evaluate', 'report', 'export')
  config.dataset = 'pairs'
  config.eval_sets = ()
  config.fsdp = True
  config.image_size = 224
  config.eval_resize = 224
  config.eval_image_size = 224
  config.crop_scale = (0.9, 1.0)
  config.mean = (0.48145466, 0.4578275, 0.40821073)
  config.std = (0.26862954, 0.26130258, 0.27577711)
  config.encoder = 'clip_vit_b16'
  config.remat = True
  config.dtype = 'bfloat16'
  config.nesting_dims = (8, 16, 32, 64, 128, 256, 512)
  config.eval_dims = ()
  config.batch_size = 32768
  config.num_epochs = 32
  config.learning_rate = 5e-4
  config.peak_epoch = 0.164
  config.betas = (0.9, 0.98)
  config.weight_decay = 0.2
  config.log_every_steps = 50
  config.eval_every_epochs = 1
  config.checkpoint_every_epochs = 1
  config.pairs.text = 'clip'
  config.pairs.text_width = 0
  config.pairs.vocabulary_size = 49408
  config.pairs.max_tokens = 77
  config.pairs.width = 512
  return config
