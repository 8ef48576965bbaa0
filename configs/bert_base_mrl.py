"""Fine-tunes BERT-base, so that its prefixes are embeddings.

MRL at the paper's widths for BERT, 12 to 768 (arXiv 2205.13147), where it was
trained as a masked language model; here by InfoNCE on pairs. For a
folder of any encoder of width 768: bert-base-uncased, mpnet-base, roberta-base.
bfloat16, for a GPU or TPU; it has not been trained here to the end.

    python launch.py --config=configs/bert_base_mrl.py --workdir=runs/mine \\
      --config.init_from=FOLDER --config.dataset=PAIRS.jsonl \\
      --config.text.columns=question,answer \\
      --config.eval_sets="'sts:STS.csv?columns=sentence1,sentence2,score'"
"""

from configs import minilm_mrl


def get_config():
  config = minilm_mrl.get_config()
  config.name = 'bert_base_mrl'
  config.dtype = 'bfloat16'
  config.nesting_dims = (12, 24, 48, 96, 192, 384, 768)
  config.eval_dims = ()
  config.batch_size = 128
  config.learning_rate = 2e-5
  # What the folder says.
  config.text.dropout = -1.0
  return config
