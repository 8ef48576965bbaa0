"""Types of command-line arguments, for argparse."""

import argparse
import os

from mrl_jax.terminal import lists
from mrl_jax.workdir import files


def path(text: str) -> str:
  """A local path, with ~ as the home folder; not empty, and no URL."""
  if not text.strip():
    raise argparse.ArgumentTypeError('is empty: must be a path')
  try:
    return os.fspath(files.local(text, 'path'))
  except ValueError as error:
    raise argparse.ArgumentTypeError(str(error)) from None


def wholes(text: str) -> tuple[int, ...]:
  """Whole numbers, parsed by `lists.wholes`."""
  try:
    return lists.wholes(text)
  except ValueError as error:
    raise argparse.ArgumentTypeError(str(error)) from None
