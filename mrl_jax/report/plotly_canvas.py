"""What the interactive figures share: their axes, type and lines."""

from collections.abc import Mapping, Sequence
import json
from typing import Any, NamedTuple

from mrl_jax.report import colors


class Style(NamedTuple):
  """How a line is told from the others."""

  color: str
  dash: str = 'solid'
  symbol: str = 'circle'


def line(style: Style) -> dict[str, Any]:
  return {
    'mode': 'lines+markers',
    'line': {'color': style.color, 'width': 2.2, 'dash': style.dash},
    'marker': {'color': style.color, 'size': 7, 'symbol': style.symbol},
  }


def width_axis(dims: Sequence[int]) -> dict[str, Any]:
  return {
    'type': 'log',
    'title_text': 'embedding width',
    'tickvals': list(dims),
    'ticktext': [str(dim) for dim in dims],
  }


def figure(y_label: str):
  # Imported late: only the report needs it.
  from plotly import graph_objects

  figure = graph_objects.Figure()
  axis = {
    'gridcolor': colors.GRID,
    'linecolor': colors.GRID,
    'zeroline': False,
    'automargin': True,
    # A finger on a figure scrolls the page.
    'fixedrange': True,
    'title': {'standoff': 8, 'font': {'size': 13}},
  }
  figure.update_layout(
    template='none',
    paper_bgcolor='rgba(0,0,0,0)',
    plot_bgcolor='rgba(0,0,0,0)',
    dragmode=False,
    font={
      'family': 'system-ui, -apple-system, "Segoe UI", sans-serif',
      'size': 13,
      'color': colors.MUTED,
    },
    hoverlabel={
      'bgcolor': colors.PAPER,
      'bordercolor': colors.GRID,
      'font': {'color': colors.INK},
    },
    margin={'l': 8, 'r': 12, 't': 8, 'b': 8},
    legend={
      'orientation': 'h',
      'x': 0,
      'y': 1.02,
      'yanchor': 'bottom',
      'font': {'color': colors.INK},
      'bgcolor': 'rgba(0,0,0,0)',
    },
    xaxis=axis,
    yaxis=axis,
    yaxis_title_text=y_label,
  )
  return figure


def finish(figure, x_axis: Mapping[str, Any]) -> dict[str, Any]:
  figure.update_xaxes(x_axis)
  return json.loads(figure.to_json(engine='json'))
