"""The record of what a model was trained on: its classes, and its splits.

It is saved with every checkpoint. A label is a position among the classes, so
that whoever opens a split later finds the classes again by their names.
"""

from collections.abc import Mapping, Sequence
import json
from typing import Any
import unicodedata

import msgspec
import xxhash

from mrl_jax.data.sources.directory import first
from mrl_jax.data.sources.example import Listed

# Names that a message lists before it only counts the others.
_SHOWN = 5


class Provenance(msgspec.Struct, frozen=True):
  """The record of what a model was trained on.

  `name` is the dataset's in TFDS, or `folder` or `vectors`; `splits` holds the
  `listing` of each split that was opened, by the split's name. `input` is the
  training's, `resident` or `stream`, whose random crops differ; it is empty in
  records from before 2026-11-28. `batch_norm_group` is the number of examples
  that BatchNorm normalised together; 0: the whole batch, or a record from
  before 2026-11-29. `crops` is what resizes streamed random crops,
  `host` or `device`; empty in records from before 2026-11-29, whose crops come
  from other random numbers.
  """

  name: str
  version: str
  class_names: tuple[str, ...]
  splits: dict[str, dict[str, str]]
  input: str = ''
  batch_norm_group: int = 0
  crops: str = ''


def record(
  sources: Mapping[str, Listed], class_names: Sequence[str]
) -> Provenance:
  """Makes the record of a training on these splits, the training split first.

  Raises ValueError if two class names differ in their Unicode form only.
  """
  _numbers(class_names)
  train = next(iter(sources.values()))
  return Provenance(
    train.name,
    train.version,
    tuple(class_names),
    {split: opened.listing() for split, opened in sources.items()},
  )


def plain(provenance: Provenance) -> dict[str, Any]:
  """Turns a record into plain JSON types; `parse` reads them."""
  return msgspec.to_builtins(provenance)


def parse(content: Mapping[str, Any], where: str) -> Provenance:
  """Reads what `plain` wrote. Raises ValueError, naming `where`."""
  try:
    return msgspec.convert(content, Provenance)
  except msgspec.ValidationError as error:
    raise ValueError(
      f'{where}: the record of its dataset is not as expected: {error}'
    ) from None


def digest(listing: Mapping[str, str]) -> str:
  """16 hexadecimal digits that change with a listing or its order."""
  return xxhash.xxh3_64_hexdigest(json.dumps([*listing.items()]).encode())


def labels(class_names: Sequence[str], trained: Sequence[str]) -> list[int]:
  """The position of each class among the trained ones; -1 if it is not there.

  Names that differ only in their Unicode form, as macOS and Linux write them,
  are the same.
  """
  number = _numbers(trained)
  return [number.get(_normal(name), -1) for name in class_names]


def compare(there: Provenance, split: str, opened: Listed) -> tuple[str, str]:
  """Describes how a split differs from what the model was trained on.

  Returns (fault, remark), parts of a sentence, of which one at least is empty.
  A fault makes labels wrong: classes came, were renamed, or hold each other's
  files. A remark may be meant so: classes without examples, other files.
  """
  trained, now = _numbers(there.class_names), _numbers(opened.class_names)
  came = [x for x in opened.class_names if _normal(x) not in trained]
  # A model may have classes that its own dataset had no folder of.
  had = {part for listing in there.splits.values() for part in listing}
  went = [x for x in trained if x in had and x not in now]
  after = opened.listing()
  # Another split than those of the training has nothing to be compared with.
  before = there.splits.get(split, after)
  moved = {
    new: old
    for new, old in _moved(before, after).items()
    if _normal(new) in now
  }
  told = [_verb(came, 'came'), _verb(went, 'went')]
  told += [f'{new} holds the files of {old}' for new, old in moved.items()]
  fault = bool(came) or bool(moved)
  if not fault:
    left = {part: text for part, text in before.items() if part not in went}
    told.append(_another(there, opened) or _changed(left, after))
  text = first([*filter(None, told)], _SHOWN)
  return (text, '') if fault else ('', text)


def compare_order(there: Provenance, split: str, opened: Listed) -> str:
  """Says why a training cannot go on with the same examples; empty if it can.

  The order of the examples follows from the listing of the training split.
  """
  if split not in there.splits:
    return ''
  if other := _another(there, opened):
    return other
  fault, remark = compare(there, split, opened)
  if not (fault or remark) and [*there.splits[split]] != [*opened.listing()]:
    return 'its classes come in another order'
  return fault or remark


def _another(there: Provenance, opened: Listed) -> str:
  was, now = (f'{x.name} {x.version}'.strip() for x in (there, opened))
  return f'it was {was}, and is {now}' if was != now else ''


def _moved(
  before: Mapping[str, str], after: Mapping[str, str]
) -> dict[str, str]:
  """Maps each part that holds what another part held before to that part."""
  # Only what is not where it was: two parts may be alike by chance.
  origin = {
    text: name for name, text in before.items() if after.get(name) != text
  }
  return {
    name: origin[text]
    for name, text in after.items()
    if before.get(name) != text and text in origin
  }


def _changed(before: Mapping[str, str], after: Mapping[str, str]) -> str:
  told = []
  for part in {**before, **after}:
    texts = [x.get(part) or '0 files ' for x in (before, after)]
    if texts[0] != texts[1]:
      # The last word is a digest, which tells people nothing.
      was, now = (text.rpartition(' ')[0] for text in texts)
      what = 'others' if was == now else f'{was} then, {now} now'
      told.append(f'{part} ({what})')
  return f'changed are {first(told, _SHOWN)}' if told else ''


def _verb(names: Sequence[str], verb: str) -> str:
  classes = 'classes' if len(names) > 1 else 'class'
  return f'{classes} {first(names, _SHOWN)} {verb}' if names else ''


def _normal(name: str) -> str:
  return unicodedata.normalize('NFC', name)


def _numbers(class_names: Sequence[str]) -> dict[str, int]:
  numbers: dict[str, int] = {}
  for i, name in enumerate(class_names):
    if numbers.setdefault(_normal(name), i) != i:
      raise ValueError(
        f'classes {name!r} and {class_names[numbers[_normal(name)]]!r} have '
        'the same name in another Unicode form: give one of them another'
      )
  return numbers
