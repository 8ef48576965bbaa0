"""Writes a dataset a second time, with smaller images, for training to read.

DIR/dataset_info.json, features.json   what makes DIR a dataset, as TFDS has it
DIR/<name>-<split>.array_record-…      the shards
DIR/manifest.json                      settings, counts, checksums; written last
DIR/unfinished/                        settings, and a file for each finished
                                       shard; gone at the end
"""

from collections.abc import Mapping, Sequence
import os
import pathlib
import re
import shutil
import sys
from typing import Any

import PIL
import tqdm

from mrl_jax import cores
from mrl_jax.data.prepare import jpegtran
from mrl_jax.data.prepare import manifest
from mrl_jax.data.prepare import processes
from mrl_jax.data.prepare import shards
from mrl_jax.data.prepare.shrink import JpegSettings
from mrl_jax.data.sources import datasets
from mrl_jax.data.sources.example import Source
from mrl_jax.workdir import files
from mrl_jax.workdir import lock

_UNFINISHED = 'unfinished'


def write_dataset(
  dataset: str,
  out: str | os.PathLike,
  *,
  data_dir: str = '',
  jpeg: JpegSettings | None = None,
  workers: int = 0,
) -> dict[str, Any]:
  """Writes all splits of a dataset to `out`, in their order.

  After an interruption the same call writes the shards that are missing; the
  bytes are as without one. Where all is written, it does nothing. `dataset` and
  `data_dir` are those of `open_source`. With `jpeg` all images become RGB JPEGs
  of that size, and damaged ones are left out; None copies images unread. 0
  `workers` means a process a core.

  Returns the content of manifest.json. Raises ValueError if there is nothing to
  read, or `out` holds something else or cannot be written.
  """
  out = files.local(out, '--out').absolute()
  sources = {
    split: datasets.open_source(dataset, split, data_dir)
    for split in datasets.split_names(dataset, data_dir)
  }
  first = next(iter(sources.values()))
  for split in sources:
    if not re.fullmatch(r'\w+', split):
      raise ValueError(f'split {split!r}: only letters, digits and _ are taken')
  _check_out(out, pathlib.Path(first.folder))
  settings = {
    'source': os.path.realpath(first.folder),
    'images': {split: len(opened) for split, opened in sources.items()},
    'max_side': jpeg.max_side if jpeg else 0,
    'quality': jpeg.quality if jpeg else None,
    # None, as in folders from before there was a choice.
    'reencode_all': True if jpeg and not jpeg.keep_small else None,
    # Whether the images are people's own, to be read as they see them; None, as
    # in folders from before there was a choice, for datasets of TFDS.
    'as_seen': first.read(0).as_seen or None,
    # Whether JPEGs are written as `jpeg_grid` does; None, as in folders from
    # before it did.
    'grid': True if jpeg else None,
    # None, as in folders from before there was a choice.
    'raw_share': (jpeg and jpeg.raw_share) or None,
    # Another version may write other bytes, below, too.
    'jpegtran': jpegtran.version() if jpeg and jpeg.lossless else None,
    'pillow': PIL.__version__ if jpeg else None,
  }
  try:
    lock_path = out / _UNFINISHED / '.lock'
    lock_path.parent.mkdir(parents=True, exist_ok=True)
    refusal = f'{out}: another process is writing there'
    with lock.held(lock_path, 'prepare', refusal):
      finished = files.read_json(
        out / manifest.NAME, manifest.Manifest, missing={}
      )
      if finished:
        manifest.check_settings(finished['settings'], settings, out)
        manifest.verify(out, sizes_only=True)
      else:
        finished = _write(out, sources, settings, jpeg, workers)
      shutil.rmtree(out / _UNFINISHED, ignore_errors=True)
  except OSError as error:
    raise ValueError(f'{out} is unfinished: {error}') from error
  return finished


def _write(
  out: pathlib.Path,
  sources: Mapping[str, Source],
  settings: Mapping[str, Any],
  jpeg: JpegSettings | None,
  workers: int,
) -> dict[str, Any]:
  settings_path = out / _UNFINISHED / 'settings.json'
  begun = files.read_json(settings_path, missing=settings)
  manifest.check_settings(begun, settings, out)
  files.write_json(settings_path, settings)
  plan = []
  for split, opened in sources.items():
    plan += shards.plan(opened, split, out, out / _UNFINISHED, jpeg)
  records = _write_missing(plan, workers or cores.count())
  finished = manifest.make(settings, records)
  shards.write_metadata(plan[0], records)
  files.write_json(out / manifest.NAME, finished)
  return finished


def _check_out(out: pathlib.Path, folder: pathlib.Path) -> None:
  if out.resolve().is_relative_to(folder.resolve()):
    raise ValueError(f'{out} is inside the dataset that is read, {folder}')
  if not out.exists():
    return
  if not out.is_dir():
    raise ValueError(f'{out} is a file')
  names = {path.name for path in out.iterdir()}
  if names and not names & {_UNFINISHED, manifest.NAME}:
    raise ValueError(f'{out} holds something else: give a new folder')


def _write_missing(
  plan: Sequence[shards.Shard], workers: int
) -> dict[str, dict[str, Any]]:
  """Writes the shards that are not there; returns all records by file name."""
  records = {}
  for shard in plan:
    # A record is written after its shard.
    record = files.read_json(
      shard.record_path, manifest.ShardRecord, missing={}
    )
    if record and shard.path.is_file():
      records[shard.path.name] = record
  missing = [shard for shard in plan if shard.path.name not in records]
  if records:
    print(f'{len(records):,} of {len(plan):,} shards are there', flush=True)
  total = sum(len(shard.part) for shard in plan)
  left = sum(len(shard.part) for shard in missing)
  with tqdm.tqdm(
    total=total,
    initial=total - left,
    unit='image',
    dynamic_ncols=True,
    file=sys.stdout,
    # Updates pile up in a log file.
    mininterval=0.1 if sys.stdout.isatty() else 10,
  ) as progress:
    for shard, record in processes.run(shards.write, missing, workers):
      records[shard.path.name] = record
      progress.update(len(shard.part))
  return {shard.path.name: records[shard.path.name] for shard in plan}
