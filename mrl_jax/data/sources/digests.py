"""Digests of folders, without reading all of their files."""

from collections.abc import Callable, Iterator, Sequence
import concurrent.futures
import itertools
import os
import pathlib
import unicodedata

import xxhash

_CHUNK = 4096


def of_folder(
  root: pathlib.Path,
  files: Sequence[tuple[str, int]],
  class_names: Sequence[str],
) -> dict[str, str]:
  """What each class folder holds: by class name, `<count> files <digest>`.

  The digest changes with the files' names below the class folder, their sizes
  and order, and with the first bytes of the first file, which tell folders
  apart whose files are all of the same names and sizes. Nothing else is read.

  Args:
    root: the folder of the class folders.
    files: paths below `root` and labels, the files of a class side by side.
    class_names: the names of the class folders, by label.
  """
  sizes = _in_chunks(lambda file: os.stat(root / file[0]).st_size, files)
  by_class = itertools.groupby(
    zip(files, sizes, strict=True), key=lambda pair: pair[0][1]
  )
  found = {}
  for label, pairs in by_class:
    class_name, count, digest = class_names[label], 0, xxhash.xxh3_64()
    for (name, _), size in pairs:
      below = pathlib.PurePath(name).relative_to(class_name).as_posix()
      line = f'{unicodedata.normalize("NFC", below)}\n{size}\n'
      digest.update(os.fsencode(line))
      if not count:
        with open(root / name, 'rb') as file:
          digest.update(file.read(_CHUNK))
      count += 1
    key = unicodedata.normalize('NFC', class_name)
    found[key] = f'{count} files {digest.hexdigest()}'
  return found


def _in_chunks(function: Callable, items: Sequence) -> Iterator:
  """Maps by threads, without queueing a future for every item at once."""
  with concurrent.futures.ThreadPoolExecutor() as pool:
    for start in range(0, len(items), _CHUNK):
      yield from pool.map(function, items[start : start + _CHUNK])
