"""The report's figures for papers: numbers in, matplotlib figures out."""

from collections.abc import Mapping, Sequence
import pathlib
from typing import Any

import numpy as np

from mrl_jax.report import colors
from mrl_jax.report.series import Points
from mrl_jax.report.series import Search
from mrl_jax.workdir import files

# Matplotlib's names of what `colors.Style` names as Plotly does.
_DASHES = {'solid': '-', 'dash': '--', 'dashdot': '-.', 'dot': ':'}
_NAMELESS = 'oDs^PX'
_MARKERS = {
  'circle': 'o', 'diamond': 'D', 'square': 's', 'triangle-up': '^', 'x': 'x'
}  # fmt: skip


def save(figure, path: pathlib.Path) -> None:
  """Writes the figure in the format that the file's name ends in."""
  import matplotlib

  # Text stays text, and the same numbers give the same file.
  with (
    matplotlib.rc_context({'svg.fonttype': 'none', 'svg.hashsalt': 'mrl'}),
    files.replacing(path) as temporary,
  ):
    kind = path.suffix.removeprefix('.')
    metadata = {'Date': None} if kind == 'svg' else None
    figure.savefig(temporary, format=kind, metadata=metadata, dpi=200)


def lines(
  series: Mapping[Any, Points],
  x_label: str,
  y_label: str,
  *,
  widths: Sequence[int] = (),
  title: str | None = None,
):
  """Lines in the styles of `colors.STYLES`, or else from dark to light.

  Args:
    series: (x, y) points by name; a y of None leaves a gap.
    x_label: the label of the x-axis.
    y_label: the label of the y-axis, with its unit.
    widths: marked on the x-axis, which is then logarithmic.
    title: the title of the legend.
  """
  figure, axes = _figure()
  hues = colors.of_widths(len(series))
  for i, (name, points) in enumerate(series.items()):
    look = {'color': hues[i], 'marker': _NAMELESS[i % len(_NAMELESS)]}
    if name in colors.STYLES:
      look = _look(name)
    # Many points are a curve.
    look |= {'marker': ''} if len(points) > 20 else {}
    x, y = np.array(points, float).T
    axes.plot(x, y, label=str(name), markersize=4, **look)
  if widths:
    axes.set_xscale('log', base=2)
    axes.set_xticks(widths, [str(dim) for dim in widths])
    axes.minorticks_off()
  axes.set_xlabel(x_label)
  axes.set_ylabel(y_label)
  axes.legend(title=title, frameon=False, fontsize=8)
  return figure


def bars(values: Mapping[str, float], x_label: str):
  """A bar for each width, and a grey one for the rest, the last."""
  figure, axes = _figure()
  hues = [*colors.of_widths(len(values) - 1), colors.RANDOM]
  drawn = axes.bar(list(values), list(values.values()), color=hues)
  texts = [f'{value:.1f}' if value else '' for value in values.values()]
  axes.bar_label(drawn, texts, padding=2, fontsize=8, color=colors.MUTED)
  axes.margins(y=0.1)
  axes.grid(visible=False, axis='x')
  axes.set_xlabel(x_label)
  axes.set_ylabel('examples, %')
  return figure


def reliability(series: Mapping[str, Points]):
  """Accuracy over confidence in percent; the diagonal is calibrated."""
  title = 'width: calibration error'
  figure = lines(series, 'confidence, %', 'accuracy, %', title=title)
  diagonal = {'color': colors.MUTED, 'linewidth': 1, 'linestyle': ':'}
  figure.axes[0].plot([0, 100], [0, 100], **diagonal)
  return figure


def trade_off(series: Mapping[str, Sequence[Search]]):
  """Searches as (MFLOPs a query, mAP@10 in percent, name) points."""
  figure, axes = _figure()
  for kind, points in series.items():
    x, y, names = zip(*sorted(points), strict=True)
    look = _look(kind)
    if kind != 'exact':
      look |= {'linestyle': '', 'fillstyle': 'none'}
    axes.plot(x, y, label=kind, zorder=3, **look)
    if kind == 'exact':
      for at, value, name in zip(x, y, names, strict=True):
        axes.annotate(
          name, (at, value), (0, -12), textcoords='offset points',
          ha='center', fontsize=7, color=colors.MUTED,
        )  # fmt: skip
  axes.set_xscale('log')
  axes.set_xlabel('cost, MFLOPs per query')
  axes.set_ylabel('mAP@10, %')
  axes.margins(y=0.15)
  axes.legend(frameon=False)
  return figure


def images(
  rows_NGHWC: Sequence[Sequence[np.ndarray]],
  texts_NG: Sequence[Sequence[str]],
  header_G: Sequence[str],
):
  """A grid of images, a text below each and a header over each column."""
  from matplotlib.figure import Figure

  N, G = len(rows_NGHWC), len(header_G)
  figure = Figure(figsize=(1.05 * G, 1.3 * N), layout='constrained')
  axes_NG = figure.subplots(N, G, squeeze=False)
  for n, (row_GHWC, texts_G) in enumerate(
    zip(rows_NGHWC, texts_NG, strict=True)
  ):
    for g, (image_HWC, text) in enumerate(zip(row_GHWC, texts_G, strict=True)):
      axes = axes_NG[n, g]
      axes.imshow(image_HWC)
      axes.set_xticks([])
      axes.set_yticks([])
      axes.spines[:].set_visible(False)
      # A class name may hold a dollar sign, which is no formula.
      axes.set_xlabel(text, fontsize=6, labelpad=2, parse_math=False)
      if not n:
        axes.set_title(header_G[g], fontsize=8)
  return figure


def _look(name: str) -> dict[str, str]:
  color, dash, symbol = colors.STYLES[name]
  return {
    'color': color, 'linestyle': _DASHES[dash], 'marker': _MARKERS[symbol]
  }  # fmt: skip


def _figure():
  # Imported late, since it takes half a second that only the report needs. Not
  # pyplot, which would look for a display.
  from matplotlib.figure import Figure

  figure = Figure(figsize=(5.4, 3.6), layout='constrained')
  axes = figure.subplots()
  axes.grid(color=colors.GRID, linewidth=0.7)
  axes.set_axisbelow(True)
  axes.spines[['top', 'right']].set_visible(False)
  return figure, axes
