"""What a page is made of; `page.html` says how it looks."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any, NamedTuple

from mrl_jax.terminal.tables import Table


@dataclasses.dataclass(frozen=True)
class Figure:
  """A Plotly figure, and what is written around it.

  Attributes:
    id: of its element.
    plotly: as `charts` draws it.
    caption: below it, and read out in its place.
    title: above it.
    shape: `square`, or empty for a wide one.
  """

  id: str
  plotly: Mapping[str, Any]
  caption: str
  title: str = ''
  shape: str = ''


class Numbers(NamedTuple):
  """A table that is folded away."""

  name: str
  table: Table
  kind: str = ''


@dataclasses.dataclass(frozen=True)
class Section:
  """A part of the page, with its place in the navigation."""

  id: str
  nav: str
  title: str
  lead: str = ''
  figures: Sequence[Figure] = ()
  tables: Sequence[Numbers] = ()
  notes: Sequence[str] = ()
  projection: Mapping[str, Any] | None = None
  saliency: Mapping[str, Any] | None = None


class Doll(NamedTuple):
  """A width in the row below the headline; `kind` is keeps, chosen or empty."""

  width: int
  accuracy: str
  height: float
  kind: str


class Tile(NamedTuple):
  """A number, and what it says."""

  big: str
  small: str


@dataclasses.dataclass(frozen=True)
class Headline:
  """The top of the page; `stress` is the coloured part of the title."""

  over: str
  before: str
  stress: str
  after: str
  lead: str
  tiles: Sequence[Tile]
  dolls: Sequence[Doll]
