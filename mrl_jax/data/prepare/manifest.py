"""The manifest.json of a written dataset: counts, sizes and checksums."""

from collections.abc import Mapping
import concurrent.futures
import hashlib
import os
import pathlib
from typing import Any, TypedDict

from mrl_jax import cores
from mrl_jax.workdir import config_record
from mrl_jax.workdir import files

NAME = 'manifest.json'


class Split(TypedDict):
  images: int
  bytes: int
  reencoded: int
  damaged: dict[str, str]


class Shard(TypedDict):
  images: int
  bytes: int
  sha256: str


class Manifest(TypedDict):
  """The content of a manifest.json."""

  settings: dict[str, Any]
  splits: dict[str, Split]
  shards: dict[str, Shard]


class ShardRecord(Split):
  """The record of a finished shard, written before there is a manifest."""

  split: str
  payload: int
  sha256: str


def make(
  settings: Mapping[str, Any], shards: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
  """Makes the manifest of shards from their records, by their file names."""
  splits = {}
  for shard in shards.values():
    split = splits.setdefault(
      shard['split'], {'images': 0, 'bytes': 0, 'reencoded': 0, 'damaged': {}}
    )
    for name in ('images', 'bytes', 'reencoded'):
      split[name] += shard[name]
    split['damaged'] |= shard['damaged']
  kept = ('images', 'bytes', 'sha256')
  return {
    'settings': dict(settings),
    'splits': splits,
    'shards': {
      name: {key: shard[key] for key in kept} for name, shard in shards.items()
    },
  }


def is_as_seen(folder: str | os.PathLike) -> bool:
  """Whether a dataset was written from a folder of images.

  Such images are people's own, and are read as people see them.
  """
  found = files.read_json(pathlib.Path(folder) / NAME, missing={})
  settings = found.get('settings')
  return isinstance(settings, dict) and bool(settings.get('as_seen'))


def check_settings(
  recorded: Mapping[str, Any], settings: Mapping[str, Any], out: pathlib.Path
) -> None:
  """Raises ValueError, naming what differs, if `out` has other settings."""
  others = recorded.keys() - settings.keys()
  if differences := config_record.differences(recorded, settings, others):
    raise ValueError(
      f'{out} was begun with other settings: {"; ".join(differences)}. Give '
      'the same, or another --out'
    )


def verify(
  out: pathlib.Path, *, workers: int = 0, sizes_only: bool = False
) -> dict[str, Any]:
  """Compares every shard with the manifest, and returns it; or ValueError."""
  try:
    manifest = files.read_json(out / NAME, Manifest)
  except (FileNotFoundError, NotADirectoryError):
    raise ValueError(
      f'{out}: no {NAME} there, so not a folder that was prepared to its end'
    ) from None
  shards = manifest['shards']

  def problem(name):
    path, shard = out / name, shards[name]
    if not path.is_file():
      return f'{name} is missing'
    size = path.stat().st_size
    if size != shard['bytes']:
      return f'{name} has {size:,} bytes instead of {shard["bytes"]:,}'
    if not sizes_only and sha256(path) != shard['sha256']:
      return f'{name} has another checksum'
    return ''

  with concurrent.futures.ThreadPoolExecutor(workers or cores.count()) as pool:
    problems = [line for line in pool.map(problem, shards) if line]
  if problems:
    more = f' and {len(problems) - 3} more' if len(problems) > 3 else ''
    raise ValueError(
      f'{out} is not as its {NAME} says: {"; ".join(problems[:3])}{more}'
    )
  return manifest


def sha256(path: pathlib.Path) -> str:
  with open(path, 'rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


def summary(manifest: Mapping[str, Any]) -> list[str]:
  """One line for each split, and one for the damaged images."""
  lines, damaged = [], {}
  for name, split in manifest['splits'].items():
    lines.append(
      f'{name}: {split["images"]:,} images, {split["bytes"] / 1e6:,.1f} MB, '
      f'{split["reencoded"]:,} re-encoded, {len(split["damaged"]):,} damaged'
    )
    damaged |= split['damaged']
  if damaged:
    first = [f'{key} ({error})' for key, error in list(damaged.items())[:5]]
    more = f' and more, all in {NAME}' if len(damaged) > 5 else ''
    lines.append(f'skipped damaged images: {", ".join(first)}{more}')
  return lines
