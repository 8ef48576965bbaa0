"""Reads one checkpoint's folder and checks it against its fingerprints."""

from collections.abc import Collection, Iterator, Mapping
import contextlib
import json
import os
import pathlib
from typing import Any
import zlib

from etils import epath
import orbax.checkpoint as ocp

from mrl_jax.training import checkpoint_faults as faults
from mrl_jax.training import fingerprint
from mrl_jax.training import sharding
from mrl_jax.training.checkpoint_faults import DamagedError
from mrl_jax.workdir import files

# Items saved as JSON.
_TEXTS = ('config', 'dataset', 'metrics')
# Orbax's list of the items in a checkpoint.
_ITEMS = '_CHECKPOINT_METADATA'


class SavedStep:
  """The files of the checkpoint of one step.

  `read` raises a ValueError of one line; call the other methods inside
  `told_apart`, which turns what they raise into one.
  """

  def __init__(self, directory: str | os.PathLike, step: int):
    self.folder = pathlib.Path(directory) / str(step)
    self._step = step

  @contextlib.contextmanager
  def told_apart(self) -> Iterator[None]:
    """Turns errors into a ValueError that says if the checkpoint is damaged."""
    if not self.folder.is_dir():
      raise ValueError(f'checkpoint {self.folder} is not there')
    try:
      yield
    except DamagedError as error:
      raise ValueError(
        f'checkpoint {self.folder} is damaged ({error}){self._way_out()}'
      ) from error
    # Orbax and tensorstore raise many types for damaged files.
    except Exception as error:
      line = faults.text_of(error, self.folder)
      if faults.is_of_the_machine(error):
        raise ValueError(
          f'checkpoint {self.folder} cannot be read by this process, which '
          f'does not mean that it is damaged ({line})'
        ) from error
      raise ValueError(
        f'checkpoint {self.folder} cannot be read, it is damaged: '
        f'{faults.damage(line)} ({line}){self._way_out()}'
      ) from error

  def items(self) -> frozenset[str]:
    """The items that the checkpoint was saved with."""
    record = self._parse(_ITEMS)
    items = record.get('item_handlers')
    if not isinstance(items, dict):
      raise DamagedError(f'{_ITEMS} lists no items')
    return frozenset(items)

  def numbers(self, items: Collection[str]) -> dict[str, int] | None:
    """The saved fingerprints; None if the checkpoint was saved without.

    Opens all files of the items and of the fingerprints first.
    """
    # Checkpoints had none before 2026-11-25. Orbax's list of items tells such a
    # checkpoint from one whose fingerprints are lost.
    has_some = 'fingerprints' in self.items()
    self._check_within_reach([*items, *(['fingerprints'] if has_some else [])])
    return self._parse('fingerprints/metadata') if has_some else None

  def read(self, item: str) -> dict[str, Any] | None:
    """The content of an item saved as JSON; None for a dataset without record.

    One process alone may call this.
    """
    with self.told_apart():
      if item == 'dataset' and item not in self.items():
        return None
      saved = self.numbers([item])
      content = self._parse(f'{item}/metadata')
      expected = {'step': self._step, item: _text_number(content)}
      for name, number in expected.items() if saved is not None else ():
        if saved.get(name) != number:
          raise DamagedError(f'not as saved: {name}')
      return content

  def check_score(self) -> None:
    """Raises DamagedError if the score has changed since it was saved."""
    items = self.items()
    if 'metrics' not in items:
      return
    content = self._parse('metrics/metrics')
    score = content.get('score')
    if not isinstance(score, int | float):
      raise DamagedError('metrics/metrics has no score')
    saved = {}
    if 'fingerprints' in items:
      # Damaged fingerprints are reported when the checkpoint is restored.
      with contextlib.suppress(DamagedError):
        saved = self._parse('fingerprints/metadata')
    # Scores had no fingerprint before 2026-11-28.
    if saved.get('metrics') not in (None, _text_number(content)):
      raise DamagedError('not as saved: metrics')

  def score(self) -> float | None:
    """The score, or None if it has no file."""
    path = self.folder / 'metrics' / 'metrics'
    return files.read_json(path, missing={}).get('score')

  def set_score(self, score: float) -> None:
    """Replaces the score and its fingerprint."""
    content = {'score': score}
    path = self.folder / 'fingerprints' / 'metadata'
    numbers = files.read_json(path, missing={})
    if numbers:
      # Without a fingerprint any score is accepted, so this may be interrupted.
      numbers.pop('metrics', None)
      files.write_json(path, numbers)
    files.write_json(self.folder / 'metrics' / 'metrics', content)
    if numbers:
      files.write_json(path, numbers | {'metrics': _text_number(content)})

  def metadata(self, item: str, saved: Mapping[str, int] | None) -> Any:
    """Orbax's description of an item's arrays, as a tree."""
    path = self.folder / item
    found = ocp.StandardCheckpointHandler().metadata(epath.Path(path)).tree
    if saved is not None:
      _check_layout(item, faults.describe(found), saved)
    return found

  def check(self, saved: Mapping[str, int], items: Mapping[str, Any]) -> None:
    """Raises DamagedError, in all processes alike, if an array differs."""
    found = fingerprints(self._step, items)
    differing = [name for name in found if found[name] != saved.get(name)]
    if differing := sharding.union(differing):
      more = f' and {len(differing) - 1} more' if differing[1:] else ''
      raise DamagedError(f'not as saved: {differing[0]}{more}')

  def _parse(self, name: str) -> dict[str, Any]:
    try:
      return files.parse_json((self.folder / name).read_bytes(), name)
    except FileNotFoundError:
      raise DamagedError(f'{name} is missing') from None
    except ValueError as error:
      raise DamagedError(str(error)) from None

  def _check_within_reach(self, items: Collection[str]) -> None:
    for item in items:
      if not (self.folder / item).is_dir():
        raise DamagedError(f'its folder {item} is missing')
      for path in _files_below(self.folder / item):
        with path.open('rb') as file:
          file.read(1)

  def _way_out(self) -> str:
    names = (path.name for path in self.folder.parent.iterdir())
    earlier = [int(x) for x in names if x.isdecimal() and int(x) < self._step]
    if not earlier:
      return '; there is none before it'
    return (
      '; without that directory, moved away, the run goes on from the one '
      f'before it, of step {max(earlier)}'
    )


def fingerprints(step: int, items: Mapping[str, Any]) -> dict[str, int]:
  """Checksums of each array in the items, by dotted path, and of each text.

  The step is included, so that a renamed directory is noticed.
  """
  arrays = {name: item for name, item in items.items() if name not in _TEXTS}
  found = {'step': step, **fingerprint.of_arrays(arrays)}
  for name in _TEXTS:
    if name in items:
      found[name] = _text_number(items[name])
  return found


def _text_number(content: Any) -> int:
  return zlib.crc32(json.dumps(content, sort_keys=True).encode())


def layouts(items: Mapping[str, Any]) -> dict[str, int]:
  """Checksums of the names, dtypes and shapes of each item's arrays."""
  return {
    _layout(name): faults.layout_number(faults.describe(tree))
    for name, tree in items.items()
  }


def _layout(item: str) -> str:
  return f'names, dtypes and shapes of {item}'


def _files_below(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  for path in folder.iterdir():
    if path.is_dir():
      yield from _files_below(path)
    else:
      yield path


def _check_layout(
  item: str, described: Mapping[str, str], saved: Mapping[str, int]
) -> None:
  names = {f'{item}.{name}' for name in described}
  expected = {name for name in saved if name.startswith(f'{item}.')}
  if names != expected:
    raise DamagedError(f'not as saved: the name {min(names ^ expected)}')
  # Layouts had no checksum before 2026-11-28.
  if saved.get(_layout(item)) not in (None, faults.layout_number(described)):
    raise DamagedError(f'not as saved: {_layout(item)}')
