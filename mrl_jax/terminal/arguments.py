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
  """A list of whole numbers, at least one."""
  try:
    values = lists.parse(text)
  except ValueError as error:
    raise argparse.ArgumentTypeError(str(error)) from None
  if not values or not all(isinstance(value, int) for value in values):
    raise argparse.ArgumentTypeError(
      f'{text!r}: must be whole numbers, such as 8,16,32'
    )
  return values
