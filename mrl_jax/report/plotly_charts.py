"""The report's interactive figures: numbers in, Plotly figures out.

Drawn in the light colours of `palette`; widths are on a logarithmic axis.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from mrl_jax.report import colors as palette
from mrl_jax.report import plotly_canvas
from mrl_jax.report.plotly_canvas import Style

Points = Sequence[tuple[float, float]]


STYLES = {
  'linear': Style(palette.LINEAR),
  '1-NN': Style(palette.NEIGHBOR, symbol='diamond'),
  'PCA': Style(palette.PCA, 'dash', 'square'),
  'SVD': Style(palette.SVD, 'dashdot', 'triangle-up'),
  'random dims': Style(palette.RANDOM, 'dot', 'x'),
  'exact': Style(palette.LINEAR),
  'adaptive': Style(palette.NEIGHBOR, symbol='square'),
  'funnel': Style(palette.PCA, symbol='triangle-up'),
  'cascade': Style(palette.NEIGHBOR, symbol='diamond'),
}


def against_width(
  series: Mapping[str, Points], dims: Sequence[int], label: str
) -> dict[str, Any]:
  """Lines over the embedding's width, marked at `dims`."""
  figure = plotly_canvas.figure(label)
  for name, points in series.items():
    x, y = zip(*sorted(points), strict=True)
    figure.add_scatter(x=x, y=y, name=name, **plotly_canvas.line(STYLES[name]))
    figure.data[-1].hovertemplate = f'%{{y:.2f}} %<extra>{name}</extra>'
  figure.update_layout(hovermode='x unified')
  return plotly_canvas.finish(figure, plotly_canvas.width_axis(dims))


def trade_off(
  series: Mapping[str, Sequence[tuple[float, float, str]]],
  front: Points,
  *,
  x_label: str,
  y_label: str,
) -> dict[str, Any]:
  """What more cost buys: (cost, value, name) points, and the best of them."""
  figure = plotly_canvas.figure(y_label)
  x, y = zip(*front, strict=True)
  figure.add_scatter(
    x=x,
    y=y,
    mode='lines',
    hoverinfo='skip',
    showlegend=False,
    line={'shape': 'hv', 'color': palette.MUTED, 'width': 1, 'dash': 'dot'},
  )
  for name, points in series.items():
    x, y, texts = zip(*sorted(points), strict=True)
    line = plotly_canvas.line(STYLES[name])
    line['mode'] = 'markers'
    if name != 'exact':
      line['marker'] |= {'symbol': STYLES[name].symbol + '-open', 'size': 9}
      line['marker']['line'] = {'width': 1.6}
    figure.add_scatter(
      x=x,
      y=y,
      name=name,
      text=texts,
      **line,
      hovertemplate=f'<b>%{{text}}</b><br>%{{y:.2f}} %, %{{x:.4g}} {x_label}'
      f'<extra>{name}</extra>',
    )
  return plotly_canvas.finish(figure, {'type': 'log', 'title_text': x_label})


def cascade(
  curve: Points, single: Points, dims: Sequence[int]
) -> dict[str, Any]:
  """Accuracy over the expected width: going on if unsure, and one width."""
  figure = plotly_canvas.figure('accuracy, %')
  for name, points in (('linear', single), ('cascade', curve)):
    x, y = zip(*sorted(points), strict=True)
    shown = 'one width for all' if name == 'linear' else 'as wide as needed'
    figure.add_scatter(
      x=x,
      y=y,
      name=shown,
      **plotly_canvas.line(STYLES[name]),
      hovertemplate=f'%{{y:.2f}} % at %{{x:.4g}} dims<extra>{shown}</extra>',
    )
  axis = plotly_canvas.width_axis(dims) | {
    'title_text': 'width that an example takes on average'
  }
  return plotly_canvas.finish(figure, axis)


def over_steps(
  series: Mapping[int, Points], label: str, *, log: bool = False
) -> dict[str, Any]:
  """A line for each width over the training's steps."""
  figure = plotly_canvas.figure(label)
  for (dim, points), color in zip(
    series.items(), palette.of_widths(len(series)), strict=True
  ):
    x, y = zip(*points, strict=True)
    mode = 'lines' if len(points) > 8 else 'lines+markers'
    figure.add_scatter(
      x=x,
      y=y,
      name=str(dim),
      mode=mode,
      line={'color': color, 'width': 2},
      hovertemplate=f'%{{y:.4g}}<extra>width {dim}</extra>',
    )
  figure.update_layout(
    hovermode='x unified', legend_title={'text': 'width ', 'font': {'size': 13}}
  )
  if log:
    figure.update_yaxes(type='log')
  return plotly_canvas.finish(figure, {'title_text': 'step'})


def per_width(
  series: Mapping[str, Sequence[float]],
  dims: Sequence[int],
  label: str,
  *,
  marked: Sequence[int] = (),
) -> dict[str, Any]:
  """Lines over the widths, a colour for each name, dark to light.

  `marked` are the widths that the axis shows; none: all.
  """
  figure = plotly_canvas.figure(label)
  symbols = ('circle', 'diamond', 'square', 'triangle-up', 'cross', 'x')
  colors = palette.of_widths(len(series))
  if len(series) == 1:
    colors = [palette.LINEAR]
  for i, ((name, values), color) in enumerate(
    zip(series.items(), colors, strict=True)
  ):
    style = Style(color, symbol=symbols[i % len(symbols)])
    figure.add_scatter(x=dims, y=values, name=name, **plotly_canvas.line(style))
    figure.data[-1].hovertemplate = f'%{{y:.2f}} %<extra>{name}</extra>'
  figure.update_layout(hovermode='x unified')
  return plotly_canvas.finish(figure, plotly_canvas.width_axis(marked or dims))


def bars(
  names: Sequence[str], values: Sequence[float], *, x_label: str, y_label: str
) -> dict[str, Any]:
  """A bar for each width, and a grey one for what is left, the last."""
  figure = plotly_canvas.figure(y_label)
  colors = [*palette.of_widths(len(names) - 1), palette.RANDOM]
  figure.add_bar(
    x=names,
    y=values,
    marker_color=colors,
    marker_line_width=0,
    text=[f'{value:.1f}' if value else '' for value in values],
    textposition='outside',
    cliponaxis=False,
    textfont={'color': palette.MUTED, 'size': 12},
    hovertemplate='%{y:.2f} %<extra>%{x}</extra>',
  )
  figure.update_layout(showlegend=False, bargap=0.25)
  axis = {'title_text': x_label, 'type': 'category', 'showgrid': False}
  return plotly_canvas.finish(figure, axis)


def reliability(
  confidence_GB: Sequence[Sequence[float | None]],
  accuracy_GB: Sequence[Sequence[float | None]],
  dims: Sequence[int],
) -> dict[str, Any]:
  """Accuracy over confidence in each bin, both in percent; diagonal: right."""
  figure = plotly_canvas.figure('accuracy, %')
  figure.add_scatter(
    x=[0, 100],
    y=[0, 100],
    mode='lines',
    hoverinfo='skip',
    showlegend=False,
    line={'color': palette.MUTED, 'width': 1, 'dash': 'dot'},
  )
  colors = palette.of_widths(len(dims))
  for dim, x, y, color in zip(
    dims, confidence_GB, accuracy_GB, colors, strict=True
  ):
    style = Style(color)
    figure.add_scatter(x=x, y=y, name=str(dim), **plotly_canvas.line(style))
    figure.data[
      -1
    ].hovertemplate = (
      f'%{{y:.1f}} % right at confidence %{{x:.1f}} %<extra>width {dim}</extra>'
    )
  figure.update_layout(legend_title={'text': 'width ', 'font': {'size': 13}})
  return plotly_canvas.finish(
    figure, {'title_text': 'confidence, %', 'range': [0, 102]}
  )


def matrix(
  value_GG: Sequence[Sequence[float]], dims: Sequence[int], what: str
) -> dict[str, Any]:
  """Shares in percent of each width with each, written into the squares."""
  names = [str(dim) for dim in dims]
  figure = plotly_canvas.figure('width')
  figure.add_heatmap(
    z=value_GG,
    x=names,
    y=names,
    zmin=0,
    zmax=100,
    xgap=2,
    ygap=2,
    colorscale=palette.scale(),
    showscale=False,
    texttemplate='%{z:.0f}',
    textfont={'size': 12, 'color': palette.INK},
    hovertemplate=f'%{{y}} and %{{x}}: %{{z:.1f}} % {what}<extra></extra>',
  )
  axis = {'type': 'category', 'showgrid': False, 'constrain': 'domain'}
  figure.update_yaxes(axis | {'autorange': 'reversed', 'scaleanchor': 'x'})
  return plotly_canvas.finish(figure, axis | {'title_text': 'width'})
