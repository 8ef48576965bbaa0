"""The examples of a split of texts: pairs, scored pairs or labelled texts."""

from collections.abc import Sequence
import pathlib
from typing import Any, Literal

import numpy as np

from mrl_jax.data.text import columns as columns_lib
from mrl_jax.data.text import sentences
from mrl_jax.data.text.columns import Column
from mrl_jax.losses.negatives import MISSING as MISSING

KINDS = ('pairs', 'scored', 'labelled')
# Texts of each kind that an example has at least.
_LEAST = {'pairs': 2, 'scored': 2, 'labelled': 1}


class Texts:
  """The examples of a split. Equal texts are stored once.

  Attributes:
    kind: `pairs`: a query, the key that answers it, and keys that do not;
      `scored`: two texts and how similar they are; `labelled`: a text and its
      class.
    texts: the distinct texts.
    text_NC: the positions of an example's texts among these, int32; MISSING
      where an example has fewer keys than others.
    prompts: what is put before the texts of the columns; the last one stands
      for all further columns.
    score_N: float32, of scored pairs.
    label_N: int32, of labelled texts.
    class_names: of labelled texts, sorted.
    left_out: examples that are left out, as a text of theirs is empty.
  """

  name, version = 'texts', ''

  def __init__(
    self,
    kind: Literal['pairs', 'scored', 'labelled'],
    rows: Sequence[Sequence[str | None]],
    *,
    targets: Sequence[Any] | np.ndarray = (),
    prompts: Sequence[str] = (),
    where: str = 'texts',
    parts: dict[str, str] | None = None,
  ):
    """Takes examples as rows of texts, with their scores or labels.

    `where` names them in messages; `parts` is their `listing`. Raises
    ValueError if no example is left, or no two differ.
    """
    kept = [
      i for i, row in enumerate(rows) if all(map(_is_text, row[: _LEAST[kind]]))
    ]
    self.kind, self._parts = kind, parts or {}
    self.prompts = tuple(prompts) or ('',)
    self.left_out = len(rows) - len(kept)
    if not kept:
      raise ValueError(f'{where}: all of its {len(rows)} examples lack a text')
    numbers: dict[str, int] = {}
    width = max(len(rows[i]) for i in kept)
    self.text_NC = np.full((len(kept), width), MISSING, np.int32)
    for n, i in enumerate(kept):
      for c, text in enumerate(rows[i]):
        if _is_text(text):
          self.text_NC[n, c] = numbers.setdefault(text, len(numbers))
    self.texts = list(numbers)
    if kind != 'labelled' and len(np.unique(self.text_NC[:, 1])) < 2:
      raise ValueError(
        f'{where}: the second text of all {len(kept)} examples is the same, so '
        'that there is nothing to tell apart'
      )
    self.class_names: tuple[str, ...] = ()
    self.score_N = self.label_N = None
    if kind == 'scored':
      self.score_N = np.asarray(targets, np.float32)[kept]
    elif kind == 'labelled':
      labels = [str(targets[i]) for i in kept]
      self.class_names = tuple(sorted(set(labels)))
      numbers = {name: i for i, name in enumerate(self.class_names)}
      self.label_N = np.array([numbers[x] for x in labels], np.int32)

  def __len__(self) -> int:
    return len(self.text_NC)

  def listing(self) -> dict[str, str]:
    """A text for each file, which changes with its content."""
    return self._parts

  def prompt(self, column: int) -> str:
    return self.prompts[min(column, len(self.prompts) - 1)]


def open_texts(
  path: str | pathlib.Path,
  kind: Literal['pairs', 'scored', 'labelled'],
  columns: Sequence[Column],
  *,
  target: Column = '',
  score_range: tuple[float, float] = (0.0, 5.0),
  prompts: Sequence[str] = (),
) -> Texts:
  """Opens the examples of a file, or of the files of a folder.

  Args:
    path: see `columns.paths`; `sentences` stands for those of a grammar, which
      have no columns.
    kind: see `Texts`.
    columns: the columns of the texts. Those of pairs from the third on hold
      hard negatives: one, a list of them, or none.
    target: the column of scores or labels.
    score_range: the lowest and the highest score.
    prompts: what is put before the texts, by column.

  Raises:
    ValueError: too few columns, one that is not there, a score outside of its
      range, a cell that is no text, or what `columns.read` refuses.
  """
  if path == sentences.NAME:
    return _made(kind, prompts)
  least = _LEAST[kind]
  wrong = len(columns) < least or (kind != 'pairs' and len(columns) > least)
  if wrong or len(set(columns)) < len(columns):
    more = ' or more' if kind == 'pairs' else ''
    raise ValueError(
      f'columns {(*columns,)}: must be {least}{more} different ones for {kind}'
    )
  with_target = kind != 'pairs'
  # Hard negatives alone may lack, and only pairs have them.
  wanted = [*columns, target] if with_target else [*columns]
  *found, last = columns_lib.read(path, wanted, optional=len(columns) - least)
  if not with_target:
    found.append(last)
  if kind == 'labelled' and None in last:
    raise ValueError(f'{path}: row {last.index(None)} has no label {target!r}')
  rows = [
    _row(path, number, cells, least)
    for number, cells in enumerate(zip(*found, strict=True))
  ]
  if kind == 'scored':
    last = columns_lib.numbers(last, score_range, str(path))
  return Texts(
    kind,
    rows,
    targets=last if with_target else (),
    prompts=prompts,
    where=str(path),
    parts=columns_lib.listing(path),
  )


def _made(kind: str, prompts: Sequence[str]) -> Texts:
  rows: Sequence[Sequence[Any]] = sentences.pairs(12_000, seed=0)
  if kind == 'scored':
    rows = sentences.scored(6_000, seed=4)
  elif kind == 'labelled':
    rows = sentences.labelled(6_000, seed=5)
  least = _LEAST[kind]
  return Texts(
    kind,
    [row[:least] for row in rows],
    targets=[row[-1] for row in rows],
    prompts=prompts,
    where=sentences.NAME,
    parts={sentences.NAME: f'{len(rows)} rows {sentences.VERSION}'},
  )


def _row(path, number: int, cells: Sequence[Any], least: int) -> list[str]:
  """An example's texts; lists among its hard negatives are laid out."""
  texts = list(cells[:least])
  for cell in cells[least:]:
    texts += cell if isinstance(cell, list) else [cell]
  for text in texts:
    if text is not None and not isinstance(text, str):
      raise ValueError(f'{path}: {text!r} in row {number} is no text')
  return texts


def _is_text(text: str | None) -> bool:
  return text is not None and bool(text.strip())
