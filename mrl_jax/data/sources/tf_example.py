"""Reads TensorFlow's `Example`, the message in which TFDS stores an example.

TFDS reads it, too, but takes twice as long, and keeps the interpreter to itself
meanwhile. See tensorflow/core/example/example.proto and feature.proto.
"""

from collections.abc import Iterator

# The one field of Example, of Features and of each list, and those of an entry.
_ONLY, _KEY, _VALUE = 1, 1, 2
# The kinds of lists that a feature can hold.
_BYTES, _INTEGERS = 1, 3
# How a field is stored.
_NUMBER, _PART = 0, 2


def parse(record: bytes) -> dict[str, list[bytes] | list[int]]:
  """Returns the values of each feature of bytes or of integers.

  Features of floats are left out. Raises ValueError for other bytes.
  """
  found = {}
  for features in _parts(record, (0, len(record)), _ONLY):
    for entry in _parts(record, features, _ONLY):
      name, values = '', None
      for number, start, stop in _fields(record, *entry):
        if number == _KEY:
          name = record[start:stop].decode()
        elif number == _VALUE:
          values = _values(record, (start, stop))
      if values is not None:
        found[name] = values
  return found


def _values(record, feature):
  for part in _parts(record, feature, _BYTES):
    return [record[slice(*x)] for x in _parts(record, part, _ONLY)]
  for part in _parts(record, feature, _INTEGERS):
    return list(_integers(record, part))
  return None


def _integers(record: bytes, part: tuple[int, int]) -> Iterator[int]:
  """The numbers of a list, of 64 bits: packed, or each a field of its own."""
  for number, at, stop in _fields(record, *part):
    while number == _ONLY and at < stop:
      value, at = _varint(record, at)
      yield value - (value >> 63 << 64)


def _parts(
  record: bytes, within: tuple[int, int], wanted: int
) -> Iterator[tuple[int, int]]:
  """Where the fields of a number begin and end."""
  for number, start, stop in _fields(record, *within):
    if number == wanted:
      yield start, stop


def _fields(record: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
  """The number of each field, where its content begins, and where it ends."""
  while at < end:
    key, start = _varint(record, at)
    if key & 7 == _PART:
      length, start = _varint(record, start)
      at = start + length
    elif key & 7 == _NUMBER:
      _, at = _varint(record, start)
    else:
      raise ValueError(f'a field of kind {key & 7} at byte {at}')
    if at > end:
      raise ValueError(f'a field ends at byte {at}, behind the end {end}')
    yield key >> 3, start, at


def _varint(record: bytes, at: int) -> tuple[int, int]:
  """A number in groups of seven bits, the lowest first, and where it ends."""
  value = shift = 0
  while at < len(record) and shift < 64:
    byte = record[at]
    at += 1
    value |= (byte & 127) << shift
    if byte < 128:
      return value, at
    shift += 7
  raise ValueError(f'a number has no end at byte {at}')
