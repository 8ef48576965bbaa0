"""Columns of JSONL, CSV, TSV and Parquet files, and of TFDS datasets."""

from collections.abc import Iterator, Sequence
import csv
import gzip
import json
import pathlib
from typing import Any

import numpy as np
import xxhash

from mrl_jax.data.text import tfds
from mrl_jax.workdir import files

SUFFIXES = ('.jsonl', '.csv', '.tsv', '.parquet')
_PACKED = '.gz'
# A text may be as long as a book; the reader's own limit is 131,072 letters.
_LONGEST = 2**31 - 1

Column = str | int


def paths(path: str | pathlib.Path) -> list[pathlib.Path]:
  """The files of a table: a file, or those of a folder, in order of names.

  Raises ValueError if there is none that can be read.
  """
  path = files.local(path, 'texts')
  found = [path]
  if path.is_dir():
    found = sorted(x for x in path.iterdir() if x.is_file() and _kind(x))
  if not found or not all(x.is_file() and _kind(x) for x in found):
    raise ValueError(
      f'texts {path}: must be a file, or a folder of files, ending in '
      f'{", ".join(SUFFIXES)}; those but Parquet also with {_PACKED}'
    )
  return found


def read(
  path: str | pathlib.Path, columns: Sequence[Column], optional: int = 0
) -> list[list[Any]]:
  """Reads columns of all rows of a file, or of the files of a folder.

  Args:
    path: what `paths` takes, or a dataset of `text.tfds`. A TSV file has no
      quotes: its cells are as they are.
    columns: names of columns; whole numbers are positions, for CSV and TSV
      files that have no line of names.
    optional: so many columns, the last ones, may lack in a row of JSONL.

  Returns:
    One list a column: text in CSV and TSV, else as in the file; None where an
    optional column is missing.

  Raises:
    ValueError: a file without such a column, which names those there are, a row
      with too few cells, bytes that are not UTF-8 or are NUL, text that is not
      JSON, or a damaged file.
  """
  found = [[] for _ in columns]
  is_tfds = tfds.is_named(path)
  for file in [path] if is_tfds else paths(path):
    try:
      rows = _rows(file, columns, len(columns) - optional)
      if is_tfds:
        rows = enumerate(tfds.rows(str(path), columns))
      for number, row in rows:
        for values, value in zip(found, row, strict=True):
          if isinstance(value, str) and '\0' in value:
            raise ValueError(f'{file}, row {number}: has a NUL byte')
          values.append(value)
    except UnicodeDecodeError as error:
      raise ValueError(
        f'{file}: is not UTF-8 at byte {error.start} of what was read last, '
        f'{error.object[error.start : error.start + 4]!r}'
      ) from None
    except (EOFError, gzip.BadGzipFile, csv.Error) as error:
      raise ValueError(f'{file}: cannot be read: {error}') from None
  if not found[0]:
    raise ValueError(f'texts {path}: has no rows')
  return found


def listing(path: str | pathlib.Path) -> dict[str, str]:
  """A text for each file, `<bytes> bytes <digest>`, which tells it changed.

  Files of TFDS are not read for it.
  """
  if tfds.is_named(path):
    return tfds.listing(str(path))
  return {file.name: digest(file) for file in paths(path)}


def digest(file: str | pathlib.Path) -> str:
  """A text on a file's content, `<bytes> bytes <digest>`."""
  found, size = xxhash.xxh3_64(), 0
  with open(file, 'rb') as stream:
    while block := stream.read(2**22):
      found.update(block)
      size += len(block)
  return f'{size} bytes {found.hexdigest()}'


def _kind(path: pathlib.Path) -> str:
  """The suffix that says how a file is read; empty: it is not."""
  name = path.name.lower()
  kind = pathlib.Path(name.removesuffix(_PACKED)).suffix
  if kind == '.parquet' and name.endswith(_PACKED):
    return ''
  return kind if kind in SUFFIXES else ''


def _rows(
  path: pathlib.Path, columns: Sequence[Column], needed: int
) -> Iterator[tuple[int, list[Any]]]:
  """Numbers and cells of a file's rows; numbers are those of lines if it has.

  The first `needed` columns must be there.
  """
  kind = _kind(path)
  if kind == '.parquet':
    yield from enumerate(_parquet(path, columns))
    return
  open_ = gzip.open if path.name.lower().endswith(_PACKED) else open
  with open_(path, 'rt', encoding='utf-8-sig', newline='') as file:
    if kind == '.jsonl':
      yield from _jsonl(path, file, columns, needed)
    else:
      yield from _csv(path, file, columns, tabs=kind == '.tsv')


def _jsonl(path, file, columns, needed) -> Iterator[tuple[int, list[Any]]]:
  for number, line in enumerate(file, 1):
    if not line.strip():
      continue
    try:
      row = json.loads(line)
    except json.JSONDecodeError as error:
      raise ValueError(f'{path}, line {number}: is no JSON: {error}') from None
    if not isinstance(row, dict):
      raise ValueError(f'{path}, line {number}: must be an object in braces')
    for column in columns[:needed]:
      if column not in row:
        raise _missing(f'{path}, line {number}', column, list(row))
    yield number, [row.get(column) for column in columns]


def _csv(path, file, columns, *, tabs) -> Iterator[tuple[int, list[Any]]]:
  csv.field_size_limit(_LONGEST)
  options = {'delimiter': '\t', 'quoting': csv.QUOTE_NONE} if tabs else {}
  reader = csv.reader(file, **options)
  places = columns
  if not all(isinstance(column, int) for column in columns):
    names = next(reader, [])
    for column in columns:
      if column not in names:
        raise _missing(path, column, names)
    places = [names.index(column) for column in columns]
  for row in reader:
    if not row:
      continue
    if max(places) >= len(row):
      raise ValueError(
        f'{path}, line {reader.line_num}: has {len(row)} cells, and column '
        f'{max(places)} is wanted (they count from 0)'
      )
    yield reader.line_num, [row[place] for place in places]


def _parquet(path, columns) -> Iterator[list[Any]]:
  try:
    import pyarrow
    from pyarrow import parquet
  except ImportError:
    raise ValueError(
      f'{path}: Parquet needs pyarrow: pip install pyarrow'
    ) from None
  try:
    file = parquet.ParquetFile(path)
    names = file.schema_arrow.names
    for column in columns:
      if column not in names:
        raise _missing(path, column, names)
    for batch in file.iter_batches(columns=list(dict.fromkeys(columns))):
      by_name = {name: batch.column(name).to_pylist() for name in columns}
      yield from zip(*(by_name[name] for name in columns), strict=True)
  except pyarrow.ArrowException as error:
    raise ValueError(f'{path}: cannot be read: {error}') from None


def _missing(where, column: Column, names: Sequence[str]) -> ValueError:
  there = ', '.join(map(str, names)) or 'none'
  return ValueError(f'{where}: has no column {column!r}; there are: {there}')


def numbers(
  values: Sequence[Any], span: tuple[float, float], where: str
) -> np.ndarray:
  """Parses scores, float32 [N]; ValueError for one outside of `span`."""
  found = np.empty(len(values), np.float32)
  for row, value in enumerate(values):
    try:
      found[row] = value
    except (TypeError, ValueError):
      found[row] = np.nan
    # NaN fails, too.
    if not span[0] <= found[row] <= span[1]:
      raise ValueError(
        f'score {value!r} of row {row} of {where}: must be a number in '
        f'[{span[0]:g}, {span[1]:g}]'
      )
  return found


def options(
  text: str, query: str, where: str, *, file: str = ''
) -> dict[str, Any]:
  """Parses `columns=a,b,score&range=0,5`, either or none of the two.

  Returns `columns`, names or positions, and `span`, the lowest and the highest
  score, as far as they are given; `file` names a further option. Raises
  ValueError that cites `text`, an entry of the field `where`.
  """
  found: dict[str, Any] = {}
  for part in filter(None, query.split('&')):
    option, _, value = part.partition('=')
    if option == 'columns':
      names = value.split(',')
      found['columns'] = tuple(int(x) if x.isdecimal() else x for x in names)
    elif option == 'range':
      found['span'] = _span(f'{where} {text!r}', value)
    elif file and option == file:
      found[file] = value
    else:
      raise ValueError(f'{where} {text!r}: {option!r} must be columns or range')
  return found


def _span(where: str, value: str) -> tuple[float, float]:
  try:
    low, high = map(float, value.split(','))
  except ValueError:
    low = high = 0.0
  if not low < high:
    raise ValueError(f'{where}: range must be as in range=0,5')
  return low, high
