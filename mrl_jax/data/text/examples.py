"""The examples of a split of texts: pairs, scored, labelled or taught ones."""

from collections.abc import Sequence
import pathlib
from typing import Any, Literal

import numpy as np

from mrl_jax.data.text import columns as columns_lib
from mrl_jax.data.text import sentences
from mrl_jax.data.text import teacher as teacher_lib
from mrl_jax.data.text.columns import Column
from mrl_jax.losses.negatives import MISSING as MISSING

Kind = Literal['pairs', 'scored', 'labelled', 'taught']
# Texts of each kind that an example has at least.
_LEAST = {'pairs': 2, 'scored': 2, 'labelled': 1, 'taught': 1}


class Texts:
  """The examples of a split. Equal texts are stored once.

  Attributes:
    kind: `pairs`: a query, the key that answers it, and keys that do not;
      `scored`: two texts and how similar they are; `labelled`: a text and its
      class; `taught`: a text and a teacher's vector.
    texts: the distinct texts.
    text_NC: the positions of an example's texts among these, int32; MISSING
      where an example has fewer keys than others.
    prompts: what is put before the texts of the columns; the last one stands
      for all further columns.
    class_names: of labelled texts, sorted.
    teacher_width: width of the teacher's vectors; 0: there is none.
    left_out: examples that are left out, as a text of theirs is empty.
  """

  name, version = 'texts', ''

  def __init__(
    self,
    kind: Kind,
    rows: Sequence[Sequence[str | None]],
    *,
    targets: Sequence[Any] | np.ndarray = (),
    prompts: Sequence[str] = (),
    where: str = 'texts',
    parts: dict[str, str] | None = None,
  ):
    """Takes examples as rows of texts, with their scores, labels or vectors.

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
    if _LEAST[kind] > 1 and len(np.unique(self.text_NC[:, 1])) < 2:
      raise ValueError(
        f'{where}: the second text of all {len(kept)} examples is the same, so '
        'that there is nothing to tell apart'
      )
    self.class_names: tuple[str, ...] = ()
    # Rows of the targets that examples have: a teacher's may be on disk.
    self._row_N = np.array(kept)
    self._targets: Any = targets
    self.teacher_width = targets.shape[1] if kind == 'taught' else 0
    if kind == 'scored':
      self._targets = np.asarray(targets, np.float32)
    elif kind == 'labelled':
      labels = [str(x) for x in targets]
      self.class_names = tuple(sorted({labels[i] for i in kept}))
      numbers = {name: i for i, name in enumerate(self.class_names)}
      self._targets = np.array([numbers.get(x, -1) for x in labels], np.int32)

  def __len__(self) -> int:
    return len(self.text_NC)

  def targets(self, rows_N: np.ndarray) -> dict[str, np.ndarray]:
    """What examples are trained for, by its name in a batch.

    `score`, float32 [N], of scored pairs; `label`, int32 [N], of labelled
    texts; `teacher`, float32 [N, E], of taught ones; nothing of pairs.
    """
    name = {'scored': 'score', 'labelled': 'label', 'taught': 'teacher'}
    if self.kind not in name:
      return {}
    found = self._targets[self._row_N[rows_N]]
    dtype = np.int32 if self.kind == 'labelled' else np.float32
    return {name[self.kind]: found.astype(dtype, copy=False)}

  def listing(self) -> dict[str, str]:
    """A text for each file, which changes with its content."""
    return self._parts

  def prompt(self, column: int) -> str:
    return self.prompts[min(column, len(self.prompts) - 1)]


def open_texts(
  path: str | pathlib.Path,
  kind: Kind,
  columns: Sequence[Column],
  *,
  target: Column = '',
  score_range: tuple[float, float] = (0.0, 5.0),
  teacher: str = '',
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
    teacher: a .npy file of a vector for each row of the texts, in their order.
    prompts: what is put before the texts, by column.

  Raises:
    ValueError: too few columns, one that is not there, a score outside of its
      range, a cell that is no text, a teacher's vectors of another number or
      not finite, or what `columns.read` refuses.
  """
  if path == sentences.NAME and kind != 'taught':
    return _made(kind, prompts)
  least = _LEAST[kind]
  wrong = len(columns) < least or (kind != 'pairs' and len(columns) > least)
  if wrong or len(set(columns)) < len(columns):
    more = ' or more' if kind == 'pairs' else ''
    raise ValueError(
      f'columns {(*columns,)}: must be {least}{more} different ones for {kind}'
    )
  with_target = kind in ('scored', 'labelled')
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
  parts = columns_lib.listing(path)
  if kind == 'scored':
    last = columns_lib.numbers(last, score_range, str(path))
  elif kind == 'taught':
    last = teacher_lib.open_vectors(teacher, len(rows), str(path))
    name = f'teacher/{pathlib.Path(teacher).name}'
    parts[name] = columns_lib.digest(teacher)
  return Texts(
    kind,
    rows,
    targets=() if kind == 'pairs' else last,
    prompts=prompts,
    where=str(path),
    parts=parts,
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
