"""Trains static token embeddings on sentences made from a grammar.

MRL at widths 8 to 256 on 12,000 pairs of English sentences that mean the same,
which come with the project: no download. All stages take less than a minute on
two CPU cores. The tokenizer is made of the sentences.

    python launch.py --config=configs/text_mrl.py

On texts of your own, pairs in the columns `question` and `answer`:

    python launch.py --config=configs/text_mrl.py --workdir=runs/mine \\
      --config.dataset=FILE.jsonl --config.text.columns=question,answer \\
      --config.eval_sets="'sts:STS.csv?columns=sentence1,sentence2,score'"
"""

from ml_collections import ConfigDict

from configs import default


def get_config():
  config = default.get_config()
  config.name = 'text_mrl'
  config.modes = ('train', 'evaluate', 'report')
  # A file of texts (JSONL, CSV, TSV, each also .gz, or Parquet), a folder of
  # those, tfds:NAME:SPLIT, or the built-in sentences.
  config.dataset = 'sentences'
  # [name=]kind:path, with the kinds sts (scored pairs), pairs (pairs or none),
  # clustering and classification (labelled texts) and retrieval (a folder as
  # BEIR has it); further ?columns=a,b,score, &range=0,5 and, for the texts that
  # a classification learns from, &train=FILE (mrl_jax/data/text/eval_sets.py).
  config.eval_sets = (
    'sts:sentences',
    'retrieval:sentences',
    'pairs:sentences',
    'clustering:sentences',
  )
  config.encoder = 'static'
  # Nested heads, mrl or mrl_e, are for the objective classification alone.
  config.head = 'none'
  config.dtype = 'float32'
  config.nesting_dims = (8, 16, 32, 64, 128, 256)
  config.eval_dims = (12, 24, 48, 96, 192)
  config.batch_size = 256
  config.num_epochs = 4
  config.optimizer = 'adamw'
  config.learning_rate = 0.01
  config.schedule = 'cosine'
  config.peak_epoch = 0.5
  config.weight_decay = 0.0
  config.label_smoothing = 0.0
  config.eval_every_epochs = 4
  config.checkpoint_every_epochs = 4

  config.text = ConfigDict()
  # contrastive (pairs), cosent or angle (scored pairs), distillation (texts and
  # a teacher's vectors), or classification (labelled texts).
  config.text.objective = 'contrastive'
  # Columns of the texts; those of pairs from the third on are hard negatives,
  # one, a list of them or none. Numbers are positions, for CSV and TSV files
  # without a line of names.
  config.text.columns = ('anchor', 'positive')
  # Column of scores or labels, and the lowest and highest score.
  config.text.target = 'score'
  config.text.score_range = (0.0, 5.0)
  # Put before the texts of each column, as 'query: ','passage: '; the last one
  # stands for all further columns. None: nothing.
  config.text.prompts = ()
  # Further datasets, [objective:]path[?columns=a,b,score&range=0,5], where they
  # differ from the fields above, and the share of the steps that each has,
  # dataset first; without weights, by their sizes. A batch is of one dataset.
  config.text.more = ()
  config.text.weights = ()
  # A tokenizer.json; empty: made of the texts, with so many tokens at most.
  config.text.tokenizer = ''
  config.text.vocabulary_size = 8192
  # Longer texts are cut.
  config.text.max_tokens = 128
  # Width of the static encoder's embedding.
  config.text.width = 256
  # Share of the states, and of the attention weights, that the training of a
  # pretrained encoder zeroes; -1: what its folder says.
  config.text.dropout = -1.0
  # Divides the cosines.
  config.text.temperature = 0.05
  # Whether keys look for their queries, too, as in CLIP.
  config.text.symmetric = False
  # Of distillation: a .npy file of a vector for each text, and the weight of
  # the divergence from its similarities, from 0 to 1; the rest is that of the
  # distance to the vectors, for which they must be as wide as the last dim.
  config.text.teacher = ''
  config.text.similarity_share = 0.5
  return config
