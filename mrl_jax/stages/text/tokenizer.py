"""The tokenizer of a run: which one it begins with, and its copy."""

from collections.abc import Callable, Iterable
import pathlib

import jax

from mrl_jax.data.sources import provenance
from mrl_jax.data.text import tokens as tokens_lib
from mrl_jax.data.text.tokens import Tokens
from mrl_jax.training import sharding
from mrl_jax.workdir import files
from mrl_jax.workdir import Workdir

_NAME = 'tokenizer.json'


def path(workdir: Workdir) -> pathlib.Path:
  """Where the workdir has it."""
  return workdir.path / _NAME


def beside(start: pathlib.Path) -> str:
  """That of a folder or a workdir, or of one of its checkpoints; or ''."""
  for folder in (start, start.parent.parent):
    if (folder / _NAME).is_file():
      return str(folder / _NAME)
  return ''


def open_tokens(workdir: Workdir, max_tokens: int) -> Tokens:
  """Opens the workdir's tokenizer; ValueError if it has none."""
  file = path(workdir)
  if not file.is_file():
    raise ValueError(f'{file} is missing, which the training has written')
  return Tokens(file, max_tokens)


def prepare(
  workdir: Workdir,
  find: Callable[[], str],
  texts: Iterable[str],
  *,
  max_tokens: int,
  vocabulary_size: int,
) -> Tokens:
  """Opens the workdir's tokenizer; a training that begins writes it before.

  It is a copy of the file that `find` returns, or is made of the texts if that
  is empty. The first process alone calls `find`.
  """
  if not workdir.latest_step():
    sharding.barrier('tokenizer is to be written')
    if not jax.process_index():
      given = find()
      with files.replacing(path(workdir)) as temporary:
        if given:
          # Read first: what is no tokenizer is not to be copied.
          found = Tokens(files.local(given, 'tokenizer'), max_tokens)
          temporary.write_bytes(found.path.read_bytes())
        else:
          tokens_lib.make_tokenizer(texts, vocabulary_size, temporary)
    sharding.barrier('tokenizer is written')
  return open_tokens(workdir, max_tokens)


def listing(workdir: Workdir) -> dict[str, str]:
  """A text that changes with the workdir's tokenizer, by its name."""
  content = path(workdir).read_text(encoding='utf-8')
  return {_NAME: f'1 file {provenance.digest({_NAME: content})}'}
