"""Renders sections to one HTML file that needs no network."""

from collections.abc import Sequence
import json
import pathlib
from typing import Any

from mrl_jax.report import colors
from mrl_jax.report.content import Headline
from mrl_jax.report.content import Section
from mrl_jax.terminal import tables

_FOLDER = pathlib.Path(__file__).parent
# Lines of a figure; nobody tells more colours apart.
_MOST_LINES = 16


def render(
  title: str,
  headline: Headline,
  sections: Sequence[Section],
  *,
  footer: str,
) -> str:
  """Returns the HTML, with Plotly's script (4.8 MB), data and images inside."""
  # Imported late: only the report needs them.
  import jinja2
  from plotly import offline

  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(_FOLDER),
    autoescape=True,
    trim_blocks=True,
    undefined=jinja2.StrictUndefined,
  )
  environment.globals['show'] = tables.show
  figures = {
    figure.id: figure.plotly
    for section in sections
    for figure in section.figures
  }
  projections = [s.projection['data'] for s in sections if s.projection]
  return environment.get_template('page.html').render(
    title=title,
    headline=headline,
    sections=sections,
    footer=footer,
    figures=_json(figures),
    themes=_json(colors.themes(_MOST_LINES)),
    projection=_json(projections[0]) if projections else '',
    plotly=offline.get_plotlyjs(),
    style=(_FOLDER / 'style.css').read_text(encoding='utf-8'),
    script=(_FOLDER / 'page.js').read_text(encoding='utf-8'),
  )


def _json(value: Any) -> str:
  """JSON that may stand inside a script element."""
  text = json.dumps(value, allow_nan=False, separators=(',', ':'))
  return text.replace('<', '\\u003c')
