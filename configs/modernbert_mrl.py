"""Fine-tunes ModernBERT-base on long texts: its prefixes become embeddings.

MRL at widths 64 to 768, by InfoNCE on pairs of up to 1,024 tokens, embedded in
parts (gradient caching). For a folder of ModernBERT-base. bfloat16, for a GPU
or TPU; it has not been trained here to the end.

    python launch.py --config=configs/modernbert_mrl.py --workdir=runs/mine \\
      --config.init_from=FOLDER --config.dataset=PAIRS.jsonl \\
      --config.text.columns=question,answer --config.eval_sets=retrieval:BEIR
"""

from configs import bert_base_mrl


def get_config():
  config = bert_base_mrl.get_config()
  config.name = 'modernbert_mrl'
  config.nesting_dims = (64, 128, 256, 512, 768)
  config.text.max_tokens = 1024
  config.batch_size, config.micro_batches = 512, 8
  config.learning_rate = 8e-5
  return config
