"""The pictures and captions that a config names, and its tokenizer."""

import pathlib

import jax
from ml_collections import ConfigDict

from mrl_jax import terminal
from mrl_jax.data.pairs import datasets
from mrl_jax.data.pairs.datasets import PairSet
from mrl_jax.data.pairs.sources import Pairs
from mrl_jax.data.sources import provenance
from mrl_jax.data.sources.provenance import Provenance
from mrl_jax.data.text import tokens as tokens_lib
from mrl_jax.data.text.tokens import Tokens
from mrl_jax.stages.pairs import start
from mrl_jax.training import sharding
from mrl_jax.workdir import files
from mrl_jax.workdir import Workdir

# The tokenizer's file in a workdir.
_TOKENIZER = 'tokenizer.json'


def open_training(config: ConfigDict) -> Pairs:
  """Opens the pairs to train on; prints what they are, and what is left out."""
  source = datasets.open_pairs(config.dataset, config.pairs.columns)
  captions = sum(map(len, source.captions))
  terminal.say(
    f'train: {len(source):,} pictures with {captions:,} captions of '
    f'{config.dataset}'
  )
  say_left_out('train', source)
  return source


def say_left_out(stage: str, source: Pairs) -> None:
  """Prints a line for each kind of what has no partner."""
  for line in getattr(source, 'left_out', ()):
    terminal.say(f'{stage}: left out: {line}')


def open_sets(config: ConfigDict) -> list[PairSet]:
  """Opens the sets to measure on; raises ValueError with each one's fault."""
  opened, faults = [], []
  for text in config.eval_sets:
    try:
      opened.append(
        datasets.open_set(text, config.pairs.columns, config.data_dir)
      )
    except ValueError as error:
      faults.append(str(error))
  if faults:
    raise ValueError('; '.join(faults))
  return opened


def tokenizer_path(workdir: Workdir) -> pathlib.Path:
  return workdir.path / _TOKENIZER


def open_tokens(config: ConfigDict, workdir: Workdir) -> Tokens:
  """Opens the workdir's tokenizer; ValueError if it has none."""
  path = tokenizer_path(workdir)
  if not path.is_file():
    raise ValueError(f'{path} is missing, which the training has written')
  return Tokens(path, config.pairs.max_tokens)


def prepare_tokens(
  config: ConfigDict, workdir: Workdir, source: Pairs
) -> Tokens:
  """Opens the workdir's tokenizer; a training that begins writes it before.

  It is a copy of `pairs.tokenizer`, or that of `init_from.text`, or is made of
  the captions. The settings of a pretrained text encoder are copied, too.
  """
  if not workdir.latest_step():
    sharding.barrier('tokenizer is to be written')
    if not jax.process_index():
      if config.pairs.text == 'pretrained':
        start.copy_settings(config, workdir)
      with files.replacing(tokenizer_path(workdir)) as temporary:
        _write_tokenizer(config, source, temporary)
    sharding.barrier('tokenizer is written')
  return open_tokens(config, workdir)


def _write_tokenizer(config, source: Pairs, path: pathlib.Path) -> None:
  given = config.pairs.tokenizer or start.tokenizer(config)
  if given:
    # Read first: what is no tokenizer is not to be copied.
    found = Tokens(files.local(given, 'tokenizer'), config.pairs.max_tokens)
    path.write_bytes(found.path.read_bytes())
    return
  texts = (text for captions in source.captions for text in captions)
  tokens_lib.make_tokenizer(texts, config.pairs.vocabulary_size, path)


def record(source: Pairs, workdir: Workdir) -> Provenance:
  """The record of the training data, saved with each checkpoint."""
  content = tokenizer_path(workdir).read_text(encoding='utf-8')
  digest = provenance.digest({_TOKENIZER: content})
  listing = {**source.listing(), _TOKENIZER: f'1 file {digest}'}
  return Provenance(
    source.name,
    source.version,
    (),
    {'train': listing},
    'stream',
    crops='host',
  )


def digest(config: ConfigDict) -> str:
  """A digest of the files of the evaluation sets."""
  listings = []
  for text in config.eval_sets:
    try:
      opened = datasets.open_set(text, config.pairs.columns, config.data_dir)
      listings.append(opened.listing())
    except (ValueError, OSError):
      listings.append({text: 'missing'})
  return '-'.join(map(provenance.digest, listings))
