"""The pictures and captions that a config names, and its tokenizer."""

from ml_collections import ConfigDict

from mrl_jax import terminal
from mrl_jax.data.pairs import datasets
from mrl_jax.data.pairs.datasets import PairSet
from mrl_jax.data.pairs.sources import Pairs
from mrl_jax.data.sources.provenance import Provenance
from mrl_jax.data.text.tokens import Tokens
from mrl_jax.stages import set_results
from mrl_jax.stages.pairs import start
from mrl_jax.stages.text import tokenizer
from mrl_jax.workdir import Workdir


def open_training(config: ConfigDict) -> Pairs:
  """Opens the pairs to train on; prints what they are, and what is left out."""
  source = datasets.open_pairs(
    config.dataset, config.pairs.columns, config.data_dir
  )
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
  return set_results.open_all(config, lambda text: _open_set(config, text))


def _open_set(config: ConfigDict, text: str) -> PairSet:
  return datasets.open_set(text, config.pairs.columns, config.data_dir)


def open_tokens(config: ConfigDict, workdir: Workdir) -> Tokens:
  """Opens the workdir's tokenizer; ValueError if it has none."""
  return tokenizer.open_tokens(workdir, config.pairs.max_tokens)


def prepare_tokens(
  config: ConfigDict, workdir: Workdir, source: Pairs
) -> Tokens:
  """Opens the workdir's tokenizer; a training that begins writes it before.

  It is a copy of `pairs.tokenizer`, or that of `init_from.text`, or is made of
  the captions. The settings of a pretrained text encoder are copied, too.
  """

  def find() -> str:
    if config.pairs.text == 'pretrained':
      start.copy_settings(config, workdir)
    return config.pairs.tokenizer or start.tokenizer(config)

  return tokenizer.prepare(
    workdir,
    find,
    (text for captions in source.captions for text in captions),
    max_tokens=config.pairs.max_tokens,
    vocabulary_size=config.pairs.vocabulary_size,
  )


def record(source: Pairs, workdir: Workdir) -> Provenance:
  """The record of the training data, saved with each checkpoint."""
  listing = {**source.listing(), **tokenizer.listing(workdir)}
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
  return set_results.digest(
    config, lambda text: _open_set(config, text).listing()
  )
