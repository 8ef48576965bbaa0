"""Small folders of text encoders, as transformers and others write them."""

import json
import pathlib

import numpy as np
from safetensors import numpy as safetensors
import tokenizers
from tokenizers import models
from tokenizers import normalizers
from tokenizers import pre_tokenizers
from tokenizers import processors

WORDS = 'a man is playing the guitar while two dogs run over grass . ! é'
SPECIAL = ('[PAD]', '[UNK]', '[CLS]', '[SEP]')
VOCABULARY = 64
SIZES = {'vocab_size': VOCABULARY, 'max_position_embeddings': 40}
SMALL = SIZES | {
  'hidden_size': 32,
  'num_hidden_layers': 2,
  'num_attention_heads': 4,
  'intermediate_size': 48,
}
# By `model_type`: what transformers' configs are made of.
CONFIGS = {
  'bert': SMALL,
  'roberta': SMALL | {'pad_token_id': 1, 'max_position_embeddings': 42},
  'distilbert': SIZES
  | {'dim': 32, 'n_layers': 2, 'n_heads': 4, 'hidden_dim': 48},
  'mpnet': SMALL | {'max_position_embeddings': 42},
  'modernbert': SMALL
  | {
    'num_hidden_layers': 4,
    'local_attention': 8,
    'pad_token_id': 0,
    'bos_token_id': 2,
    'eos_token_id': 3,
    'cls_token_id': 2,
    'sep_token_id': 3,
  },
}


def write_tokenizer(path: pathlib.Path, *, special: bool = True) -> None:
  """A tokenizer.json of words, which cuts off and pads at 5 tokens itself."""
  ids = {word: i for i, word in enumerate((*SPECIAL, *WORDS.split()))}
  tokenizer = tokenizers.Tokenizer(models.WordLevel(ids, '[UNK]'))
  tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
  tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
  if special:
    tokenizer.post_processor = processors.TemplateProcessing(
      single='[CLS] $A [SEP]', special_tokens=[('[CLS]', 2), ('[SEP]', 3)]
    )
  tokenizer.enable_truncation(5)
  tokenizer.enable_padding(length=5)
  tokenizer.save(str(path / 'tokenizer.json'))
  (path / 'tokenizer_config.json').write_text(
    json.dumps(
      {
        'tokenizer_class': 'PreTrainedTokenizerFast',
        'model_max_length': 40,
        'unk_token': '[UNK]',
        'pad_token': '[PAD]',
        'cls_token': '[CLS]',
        'sep_token': '[SEP]',
      }
    )
  )


def write_dense(path: pathlib.Path, width: int, out: int) -> None:
  """A Dense module with random weights, and tanh."""
  path.mkdir(exist_ok=True)
  content = {'in_features': width, 'out_features': out, 'bias': True}
  content['activation_function'] = 'torch.nn.modules.activation.Tanh'
  (path / 'config.json').write_text(json.dumps(content))
  rng = np.random.default_rng(0)
  arrays = {
    'linear.weight': rng.normal(size=(out, width)).astype(np.float32),
    'linear.bias': rng.normal(size=out).astype(np.float32),
  }
  safetensors.save_file(arrays, path / 'model.safetensors')


def write_modules(path: pathlib.Path, *kinds: str, **pooling) -> None:
  """A modules.json with these modules behind the Transformer."""
  content = []
  for i, kind in enumerate(('Transformer', *kinds)):
    name = f'{i}_{kind}' if i else ''
    kind = f'sentence_transformers.models.{kind}'
    content.append({'idx': i, 'name': str(i), 'path': name, 'type': kind})
    (path / name).mkdir(exist_ok=True)
  (path / 'modules.json').write_text(json.dumps(content))
  if 'Pooling' in kinds:
    (path / '1_Pooling' / 'config.json').write_text(
      json.dumps(pooling or {'pooling_mode_mean_tokens': True})
    )
