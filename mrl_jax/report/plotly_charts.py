"""The page's interactive figures: numbers in, Plotly figures as JSON out.

They are drawn in the light page's colours; widths are on a logarithmic axis.
"""

from collections.abc import Mapping, Sequence
import json
from typing import Any

from mrl_jax.report import colors
from mrl_jax.report.colors import Style
from mrl_jax.report.colors import STYLES
from mrl_jax.report.series import Points
from mrl_jax.report.series import Search

_SYMBOLS = ('circle', 'diamond', 'square', 'triangle-up', 'cross', 'x')


def lines(
  series: Mapping[str, Points],
  dims: Sequence[int],
  y_label: str,
  *,
  x_label: str = '',
) -> dict[str, Any]:
  """Lines over the embedding's width, marked at `dims`.

  Names of `colors.STYLES` are drawn in their style, others dark to light.
  `x_label` stands for widths that are no whole numbers, which the text at a
  point then tells as well.
  """
  figure = _figure(y_label)
  hues = colors.of_widths(len(series)) if len(series) > 1 else [colors.LINEAR]
  hover = '%{y:.2f} % at %{x:.4g} dims' if x_label else '%{y:.2f} %'
  for i, (name, points) in enumerate(series.items()):
    style = Style(hues[i], symbol=_SYMBOLS[i % len(_SYMBOLS)])
    look = _line(STYLES.get(name, style))
    _add_line(figure, name, sorted(points), look, hover)
  if not x_label:
    figure.update_layout(hovermode='x unified')
  return _finish(figure, _width_axis(dims, x_label or 'embedding width'))


def trade_off(
  series: Mapping[str, Sequence[Search]], front: Sequence[Search]
) -> dict[str, Any]:
  """Searches by their cost and accuracy, and a line through the best."""
  figure, cost = _figure('mAP@10, %'), 'MFLOPs per query'
  x, y, _ = zip(*front, strict=True)
  _add_dotted(figure, x, y, shape='hv')
  for name, points in series.items():
    *points, texts = zip(*sorted(points), strict=True)
    look = _line(STYLES[name]) | {'mode': 'markers', 'text': texts}
    if name != 'exact':
      look['marker'] |= {'symbol': STYLES[name].symbol + '-open', 'size': 9}
      look['marker']['line'] = {'width': 1.6}
    hover = f'<b>%{{text}}</b><br>%{{y:.2f}} %, %{{x:.4g}} {cost}'
    _add_line(figure, name, zip(*points, strict=True), look, hover)
  return _finish(figure, {'type': 'log', 'title_text': cost})


def over_steps(
  series: Mapping[int, Points], label: str, *, log: bool = False
) -> dict[str, Any]:
  """A line for each width over the steps of training."""
  figure = _lines_of_widths(series, label, '%{y:.4g}')
  figure.update_layout(hovermode='x unified')
  if log:
    # Lines at 1, 2 and 5; labels of all digits would overlap.
    figure.update_yaxes(type='log', dtick='D2', tickformat='~g')
  return _finish(figure, {'title_text': 'step'})


def _lines_of_widths(series: Mapping[int, Points], label: str, hover: str):
  figure = _figure(label)
  hues = colors.of_widths(len(series))
  for (dim, points), color in zip(series.items(), hues, strict=True):
    look = _line(Style(color))
    if len(points) > 20:  # A curve.
      look['mode'] = 'lines'
    _add_line(figure, dim, points, look, hover, f'width {dim}')
  title = {'text': 'width ', 'font': {'size': 13}}
  figure.update_layout(legend_title=title)
  return figure


def bars(values: Mapping[str, float], x_label: str) -> dict[str, Any]:
  """A bar for each width, and a grey one for the rest, the last."""
  figure = _figure('examples, %')
  figure.add_bar(
    x=list(values),
    y=list(values.values()),
    marker_color=[*colors.of_widths(len(values) - 1), colors.RANDOM],
    marker_line_width=0,
    text=[f'{value:.1f}' if value else '' for value in values.values()],
    textposition='outside',
    cliponaxis=False,
    textfont={'color': colors.MUTED, 'size': 12},
    hovertemplate='%{y:.2f} %<extra>%{x}</extra>',
  )
  figure.update_layout(showlegend=False, bargap=0.25)
  axis = {'title_text': x_label, 'type': 'category', 'showgrid': False}
  return _finish(figure, axis)


def reliability(series: Mapping[int, Points]) -> dict[str, Any]:
  """Accuracy over confidence in percent; the diagonal is calibrated."""
  hover = '%{y:.1f} % right at confidence %{x:.1f} %'
  figure = _lines_of_widths(series, 'accuracy, %', hover)
  _add_dotted(figure, [0, 100], [0, 100])
  return _finish(figure, {'title_text': 'confidence, %', 'range': [0, 102]})


def matrix(
  value_GG: Sequence[Sequence[float]], dims: Sequence[int], what: str
) -> dict[str, Any]:
  """Shares in percent for each pair of widths, written into the squares."""
  names = [str(dim) for dim in dims]
  figure = _figure('width')
  figure.add_heatmap(
    z=value_GG,
    x=names,
    y=names,
    zmin=0,
    zmax=100,
    xgap=2,
    ygap=2,
    colorscale=colors.scale(),
    showscale=False,
    texttemplate='%{z:.0f}',
    textfont={'size': 12, 'color': colors.INK},
    hovertemplate=f'%{{y}} and %{{x}}: %{{z:.1f}} % {what}<extra></extra>',
  )
  axis = {'type': 'category', 'showgrid': False, 'constrain': 'domain'}
  figure.update_yaxes(axis | {'autorange': 'reversed', 'scaleanchor': 'x'})
  return _finish(figure, axis | {'title_text': 'width'})


def places(
  groups: Mapping[str, Sequence[Sequence[float]]], names: Sequence[str]
) -> dict[str, Any]:
  """Points [N, 2] of each group; those of one name are joined by a line.

  `names` are the texts at the points of every group.
  """
  figure = _figure('')
  x, y = [], []
  for several in zip(*groups.values(), strict=True):
    x += [point[0] for point in several] + [None]
    y += [point[1] for point in several] + [None]
  _add_silent(figure, x, y, color=colors.GRID)
  hues = (colors.LINEAR, colors.NEIGHBOR)
  for i, (name, points) in enumerate(groups.items()):
    look = _line(Style(hues[i % 2], symbol=_SYMBOLS[i])) | {'mode': 'markers'}
    hover = '%{text}'
    _add_line(figure, name, points, look | {'text': names}, hover)
  axis = dict.fromkeys(('showticklabels', 'showgrid', 'showline'), False)
  figure.update_yaxes(axis | {'scaleanchor': 'x'})
  return _finish(figure, axis | {'title_text': ''})


def _add_line(figure, name, points, look, hover='%{y:.2f} %', extra='') -> None:
  x, y = zip(*points, strict=True)
  hover += f'<extra>{extra or name}</extra>'
  figure.add_scatter(x=x, y=y, name=str(name), hovertemplate=hover, **look)


def _add_dotted(figure, x, y, **line) -> None:
  _add_silent(figure, x, y, **line | {'color': colors.MUTED, 'dash': 'dot'})


def _add_silent(figure, x, y, **line) -> None:
  """A thin line without a name."""
  figure.add_scatter(
    x=x,
    y=y,
    mode='lines',
    hoverinfo='skip',
    showlegend=False,
    line=line | {'width': 1},
  )


def _line(style: Style) -> dict[str, Any]:
  return {
    'mode': 'lines+markers',
    'line': {'color': style.color, 'width': 2.2, 'dash': style.dash},
    'marker': {'color': style.color, 'size': 7, 'symbol': style.symbol},
  }


def _width_axis(dims: Sequence[int], label: str) -> dict[str, Any]:
  return {
    'type': 'log',
    'title_text': label,
    'tickvals': list(dims),
    'ticktext': [str(dim) for dim in dims],
  }


def _figure(y_label: str):
  # Imported late: only the report needs it.
  from plotly import graph_objects

  axis = {
    'gridcolor': colors.GRID,
    'linecolor': colors.GRID,
    'zeroline': False,
    'automargin': True,
    # A finger on a figure scrolls the page.
    'fixedrange': True,
    'title': {'standoff': 8, 'font': {'size': 13}},
  }
  figure = graph_objects.Figure()
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


def _finish(figure, x_axis: Mapping[str, Any]) -> dict[str, Any]:
  figure.update_xaxes(x_axis)
  return json.loads(figure.to_json(engine='json'))
