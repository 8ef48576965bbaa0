"""Fine-tunes a pretrained text encoder, so that its prefixes are embeddings.

MRL at widths 8 to 384, by InfoNCE on pairs; the paper has no such row. Made for
all-MiniLM-L6-v2; any folder of Hugging Face or sentence-transformers with a
BERT-family encoder will do, with nesting_dims up to its width. A batch takes
two to three seconds on two CPU cores.

    python launch.py --config=configs/minilm_mrl.py --workdir=runs/mine \\
      --config.init_from=FOLDER --config.dataset=PAIRS.jsonl \\
      --config.text.columns=question,answer \\
      --config.eval_sets="'sts:STS.csv?columns=sentence1,sentence2,score'"

Rate and dropout were chosen on the dev split of STS-B, for 160 steps of which
half had pairs of captions (Multi30k), by InfoNCE, and half STS-B's scored
pairs, by CoSENT (LOG.md has what that gave):

    --config.dataset=CAPTIONS.jsonl --config.text.weights=1,1 \\
      --config.text.more="'cosent:STS_TRAIN.csv?columns=a,b,score'"

After --mode=export, `python -m mrl_jax.interop.text.nest` makes the narrow
prefixes better still, from the same pairs:

    python -m mrl_jax.interop.text.nest runs/mine CAPTIONS.jsonl \\
      'STS_TRAIN.csv?columns=a,b' --out=FOLDER

Batches beyond memory: `--config.batch_size=1024 --config.micro_batches=16`
embeds 64 pairs at a time, and compares all 1,024.
"""

from configs import text_mrl


def get_config():
  config = text_mrl.get_config()
  config.name = 'minilm_mrl'
  config.encoder = 'pretrained'
  config.nesting_dims = (8, 16, 32, 64, 128, 256, 384)
  config.eval_dims = (192,)
  config.batch_size = 64
  config.num_epochs = 1
  # On few data; for millions of pairs 2e-5 and the folder's dropout (-1) are
  # usual.
  config.learning_rate = 5e-5
  config.text.dropout = 0.0
  config.peak_epoch = 0.1
  config.weight_decay = 0.01
  config.decay_mask = 'no_norm_no_bias'
  config.eval_every_epochs = 1
  config.checkpoint_every_epochs = 1
  config.eval_batch_size = 64
  return config
