"""The parts of a page; `page.html` lays them out."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any, NamedTuple

from mrl_jax.terminal.tables import Table


@dataclasses.dataclass(frozen=True)
class Figure:
  """A Plotly figure and the text around it.

  Attributes:
    id: the id of its HTML element.
    plotly: the figure as JSON, from `plotly_charts`.
    caption: the text below it, which screen readers read in its place.
    title: the text above it.
    shape: `square`, or empty for a wide figure.
  """

  id: str
  plotly: Mapping[str, Any]
  caption: str
  title: str = ''
  shape: str = ''


class FoldedTable(NamedTuple):
  """A table that opens at a click; `kind` is a CSS class."""

  name: str
  table: Table
  kind: str = ''


@dataclasses.dataclass(frozen=True)
class Section:
  """A section of the page; `nav` is its name in the navigation bar."""

  nav: str
  title: str
  lead: str = ''
  figures: Sequence[Figure] = ()
  tables: Sequence[FoldedTable] = ()
  notes: Sequence[str] = ()
  projection: Mapping[str, Any] | None = None
  saliency: Mapping[str, Any] | None = None

  @property
  def id(self) -> str:
    """The id of its HTML element."""
    return self.nav.lower().removeprefix('the ')


class Doll(NamedTuple):
  """One width of the row below the headline.

  `kind` is `chosen` for the smallest width that is enough, `keeps` for wider
  ones, and empty for narrower ones.
  """

  width: int
  accuracy: str
  height: float
  kind: str


class Tile(NamedTuple):
  """A number in large type, and the text below it."""

  big: str
  small: str


@dataclasses.dataclass(frozen=True)
class Headline:
  """The top of the page; `stress` is the coloured part of its title."""

  over: str
  before: str
  stress: str
  after: str
  lead: str
  tiles: Sequence[Tile]
  dolls: Sequence[Doll]
