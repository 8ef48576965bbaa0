"""Times training steps of a text encoder beside sentence-transformers.

    python -m benchmarks.text_step [--model=FOLDER] [--texts=PAIRS.jsonl]
                  [--batch=64] [--peer=sentence-transformers] [--memory]

A step embeds a batch of pairs, takes InfoNCE at every width and updates with
AdamW; ours at all widths and at one, the peer's by MatryoshkaLoss over
MultipleNegativesRankingLoss at all. All start from the same folder, have the
same pairs, tokens and dropout rates. Texts are tokenized before. Medians of
alternating runs in one process, after steps that compile. `--memory` compiles
the steps of --batch and of 16 times that, in as many parts, and prints the
memory that they need beside parameters and optimizer state.
"""

import argparse
from collections.abc import Callable, Sequence
import contextlib
import itertools
from typing import Any

from flax import nnx
import jax

from benchmarks import text
from benchmarks import timing
from mrl_jax import models
from mrl_jax import nesting
from mrl_jax.data.text import examples
from mrl_jax.data.text.batches import TextBatches
from mrl_jax.data.text.mix import Mix
from mrl_jax.interop.text import folder as folder_lib
from mrl_jax.training import optim
from mrl_jax.training import sharding
from mrl_jax.training import state as state_lib
from mrl_jax.training import text_step

PEERS = ('sentence-transformers',)
RATE = 2e-5
TEMPERATURE = 0.05
PARTS = 16
# Batches that all take turns with.
BATCHES = 3


def main() -> None:
  parser = argparse.ArgumentParser(
    prog='python -m benchmarks.text_step', description=__doc__.split('\n')[0]
  )
  add = parser.add_argument
  add('--json', help='file for the figures')
  add('--model', default='', help='folder of a text encoder; MiniLM')
  add('--texts', default='sentences', help='pairs: anchor and positive')
  add('--batch', type=int, default=64)
  add('--peer', choices=PEERS)
  add('--rounds', type=int, default=3)
  add('--memory', action='store_true')
  args = parser.parse_args()
  packages = ['jax', 'jaxlib']
  packages += ['sentence-transformers', 'torch'] if args.peer else []
  record = {'environment': timing.environment(*packages), **vars(args)}
  print(', '.join(f'{k} {v}' for k, v in record['environment'].items()))
  folder = folder_lib.open_folder(args.model or text.minilm())
  source = examples.open_texts(args.texts, 'pairs', ('anchor', 'positive'))
  if args.memory:
    rows = [
      _memory(folder, source, args.batch * parts, parts) for parts in (1, PARTS)
    ]
    timing.show('Memory of a step', rows)
  else:
    rows = _times(folder, source, args)
    timing.show(f'Steps of {args.batch} pairs', rows)
  if args.json:
    timing.write_json(args.json, {**record, 'rows': rows})


def _times(folder, source, args) -> list[timing.Row]:
  dims = nesting.doubling(8, folder.settings.backbone.width)
  mix = Mix([source], batch_size=args.batch, seed=0)
  tokens = folder.tokens()
  steps = {
    f'ours, {len(dims)} widths': _ours(folder, mix, tokens, dims),
    'ours, 1 width': _ours(folder, mix, tokens, dims[-1:]),
  }
  if args.peer:
    name = f'{args.peer}, {len(dims)} widths'
    steps[name] = _theirs(folder, mix, tokens, dims)
  found = timing.medians(steps, args.rounds)
  first, second, *theirs = found.values()
  ratios = [1.0, first / second, *(x / first for x in theirs)]
  words = ['', 'all widths over one', *['peer / ours'] * len(theirs)]
  return [
    {'step': name, 'ms': ms, 'ratio': ratio, 'of': word}
    for (name, ms), ratio, word in zip(
      found.items(), ratios, words, strict=True
    )
  ]


def _made(folder, dims: Sequence[int], parts: int = 1):
  model = models.Classifier(
    folder.load(), dims, 1, head='none', rngs=nnx.Rngs(0)
  )
  optimizer = optim.adamw(RATE, weight_decay=0.01)
  graphdef, state = state_lib.create(model, optimizer)
  objective = text_step.Objective('contrastive', tuple(dims), TEMPERATURE)
  step = text_step.make_text_step(
    graphdef, optimizer, objective, seed=0, parts=parts
  )
  return step, state


def _ours(folder, mix, tokens, dims) -> Callable[[], Any]:
  step, state = _made(folder, dims)
  batches = TextBatches(mix, tokens, mesh=sharding.make_mesh(1)).batches(0)
  with contextlib.closing(batches):
    turns = itertools.cycle([*itertools.islice(batches, BATCHES)])

  def run():
    nonlocal state
    state, values = step(state, next(turns))
    return jax.block_until_ready(values)

  for _ in range(BATCHES):  # All their shapes are compiled.
    run()
  return run


def _theirs(folder, mix, tokens, dims) -> Callable[[], Any]:
  import sentence_transformers
  from sentence_transformers.sentence_transformer import losses
  import torch

  model = sentence_transformers.SentenceTransformer(
    str(folder.path), device='cpu'
  )
  loss = losses.MatryoshkaLoss(
    model, losses.MultipleNegativesRankingLoss(model), list(dims)
  )
  optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=0.01)
  model.train()
  (source,), features = mix.sources, []
  for step in range(BATCHES):
    rows = source.text_NC[mix.rows(step)[1]].T
    columns = []
    for numbers in rows:
      ids = tokens.ids([source.texts[i] for i in numbers])
      width = max(map(len, ids))  # As their collator pads.
      pad = lambda row, fill, width=width: [*row, *[fill] * (width - len(row))]
      columns.append(
        {
          'input_ids': torch.tensor([pad(x, tokens.pad_id) for x in ids]),
          'attention_mask': torch.tensor([pad([1] * len(x), 0) for x in ids]),
        }
      )
    features.append(columns)
  turns = itertools.cycle(features)

  def run():
    optimizer.zero_grad()
    found = loss([dict(x) for x in next(turns)], None)
    found.backward()
    optimizer.step()
    return found.item()

  for _ in range(BATCHES):
    run()
  return run


def _memory(folder, source, batch_size: int, parts: int) -> timing.Row:
  dims = nesting.doubling(8, folder.settings.backbone.width)
  step, state = _made(folder, dims, parts)
  mix = Mix([source], batch_size=batch_size, seed=0)
  batches = TextBatches(
    mix, folder.tokens(), mesh=sharding.make_mesh(1), parts=parts
  ).batches(0)
  with contextlib.closing(batches):
    compiled = step.lower(state, next(batches)).compile()
  found = compiled.memory_analysis()
  return {
    'batch': batch_size,
    'parts': parts,
    'temporary MB': found.temp_size_in_bytes / 1e6,
    'state and batch MB': found.argument_size_in_bytes / 1e6,
  }


if __name__ == '__main__':
  main()
