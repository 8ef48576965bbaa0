"""Trains an image tower and a text tower on emoji and their names.

MRL at widths 8 to 64 on 1,715 pictures with their names, at 16 pixels, from
scratch; the names of 196 others are held out, and texts find their picture
among these 10 nearest with 40, 43, 45 and 44 % at the widths 8, 16, 32 and 64
(LOG.md). The paper's third modality is ALIGN, which has no such row. The
pictures are downloaded first (78 MB); the stages take some four minutes of CPU:

    python -m mrl_jax.data.prepare.emoji datasets/emoji
    python launch.py --config=configs/emoji_clip_mrl.py

Pictures with captions of your own are a folder with a `metadata.jsonl`, `.csv`
or `.parquet` of the columns file_name and text, or tars of WebDataset:

    python launch.py --config=configs/emoji_clip_mrl.py --workdir=runs/mine \\
      --config.dataset=FOLDER --config.eval_sets="'retrieval:OTHER'"
"""

from ml_collections import ConfigDict

from configs import default


def get_config():
  config = default.get_config()
  config.name = 'emoji_clip_mrl'
  config.modes = ('train', 'evaluate', 'report')
  # A folder of pictures with a table of their captions, a folder of tars, one
  # tar (a * in its name: several), or tfds:NAME:SPLIT.
  config.dataset = 'datasets/emoji/train'
  # [name=]retrieval:PAIRS, of which ?shortlist=N rows are reranked, and the
  # page shows what &words=a cat|a car find, or [name=]zero_shot:DATASET@SPLIT,
  # whose classes are the texts: ?templates=a {}|the {}, &neighbors=SPLIT for
  # k-NN. Words and templates may be a .txt file (data/pairs/datasets.py).
  config.eval_sets = (
    'names=retrieval:datasets/emoji/val?shortlist=20&words=a smiling face|'
    'a flag|a woman who works|an animal|something to eat|a red heart',
    'kinds=zero_shot:folder:datasets/emoji@val?neighbors=train',
    'fluent_names=retrieval:datasets/emoji/fluent',
    'fluent_kinds=zero_shot:folder:datasets/emoji@fluent?neighbors=train',
  )
  config.image_size = 16
  config.eval_resize = 16
  config.eval_image_size = 16
  config.crop_scale = (0.5, 1.0)
  # Mirrored hands and letters are others.
  config.flip = False
  config.encoder = 'resnet8'
  # Nested heads are for classes.
  config.head = 'none'
  config.dtype = 'float32'
  config.nesting_dims = (8, 16, 32, 64)
  config.eval_dims = (12, 24, 48)
  config.batch_size = 128
  config.num_epochs = 40
  config.optimizer = 'adamw'
  config.learning_rate = 2e-3
  config.schedule = 'cosine'
  config.peak_epoch = 2.0
  config.weight_decay = 0.05
  config.decay_mask = 'no_norm_no_bias'
  config.label_smoothing = 0.0
  config.log_every_steps = 13
  config.eval_every_epochs = 40
  config.checkpoint_every_epochs = 10
  config.eval_batch_size = 256
  # What each tower starts from: a run; the image tower also from a file of
  # PyTorch, the text tower from a folder of a text encoder; both from a folder
  # of CLIP or SigLIP. Empty: afresh.
  del config.init_from
  config.init_from = ConfigDict({'image': '', 'text': ''})

  config.pairs = ConfigDict()
  # The columns of a picture's path and of its caption; TFDS: the latter's
  # feature, or its name within `captions`.
  config.pairs.columns = ('file_name', 'text')
  # contrastive, CLIP's loss, or sigmoid, SigLIP's.
  config.pairs.objective = 'contrastive'
  # static (token embeddings), bert, clip, siglip, or pretrained, for which
  # init_from.text is needed; `encoder` is that of the images.
  config.pairs.text = 'static'
  # Width, blocks and attention heads of the text encoder; 0: its own.
  config.pairs.text_width = 256
  config.pairs.text_depth = 0
  config.pairs.text_heads = 0
  # A tokenizer.json; empty: that of init_from.text, or made of the captions.
  config.pairs.tokenizer = ''
  # Token embeddings; a tokenizer that is made has no more tokens.
  config.pairs.vocabulary_size = 2048
  # Longer texts are cut.
  config.pairs.max_tokens = 16
  # Towers with a linear layer behind them, and its width.
  config.pairs.projections = ('image', 'text')
  config.pairs.width = 64
  # Towers that do not train, as in LiT; their projections do.
  config.pairs.frozen = ()
  return config
