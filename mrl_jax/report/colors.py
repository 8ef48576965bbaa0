"""Colours and line styles of the figures, on a light page and on a dark one.

Figures are drawn in the light colours; the page's script replaces them on a
dark page. The colour-blind can tell all of them apart (Okabe and Ito's set,
Tol's muted set, viridis), and lines differ in dash and marker as well.
"""

from typing import NamedTuple

import numpy as np

INK = '#1d1c1a'
MUTED = '#6a665f'
GRID = '#e4dfd6'
PAPER = '#fffefc'
LINEAR = '#0072b2'
NEIGHBOR = '#d55e00'
PCA = '#009e73'
SVD = '#b05f8b'
RANDOM = '#8f8a83'


class Style(NamedTuple):
  """Colour, dash and marker of a line, by Plotly's names."""

  color: str
  dash: str = 'solid'
  symbol: str = 'circle'


# By the names that `report.series` gives lines.
STYLES = {
  'linear': Style(LINEAR),
  '1-NN': Style(NEIGHBOR, symbol='diamond'),
  'PCA': Style(PCA, 'dash', 'square'),
  'SVD': Style(SVD, 'dashdot', 'triangle-up'),
  'random dims': Style(RANDOM, 'dot', 'x'),
  'exact': Style(LINEAR),
  'adaptive': Style(NEIGHBOR, symbol='square'),
  'funnel': Style(PCA, symbol='triangle-up'),
  'one width for all': Style(LINEAR),
  'as wide as needed': Style(NEIGHBOR, symbol='diamond'),
}
_DARK = {
  INK: '#eceae6',
  MUTED: '#a5a19a',
  GRID: '#34363b',
  PAPER: '#1c1e22',
  LINEAR: '#5db7ec',
  NEIGHBOR: '#ff8f4d',
  PCA: '#35cba0',
  SVD: '#e6a0c6',
  RANDOM: '#918d87',
}
_CLASSES = {
  '#332288': '#8f82ec',
  '#44aa99': '#55bfae',
  '#cc6677': '#e0808f',
  '#c0a93e': '#ddcc77',
  '#5aa8d0': '#88ccee',
  '#882255': '#d0639b',
  '#117733': '#4fb56f',
  '#aa4499': '#cf72bf',
  '#857f22': '#b5b04a',
  '#6f6f6f': '#b4b4b4',
}
CLASSES = tuple(_CLASSES)


def of_widths(count: int) -> list[str]:
  """Colours from dark to light, one for each width."""
  return [_hex(at) for at in np.linspace(0.0, 0.82, count)]


def themes(most: int) -> dict[str, str]:
  """Maps each light colour to the dark page's, for up to `most` widths."""
  widths = {}
  for count in range(1, most + 1):
    # On a dark page the widest is the brightest.
    dark = [_hex(at) for at in np.linspace(0.3, 1.0, count)]
    widths |= zip(of_widths(count), dark, strict=True)
  return {**_DARK, **_CLASSES, **widths, **dict(zip(*_SCALES, strict=True))}


# Both scales, light and dark, are pale enough for the ink on them to be read.
_SCALES = (
  ('#f6f3ee', '#d3e2ec', '#aacbe2', '#7fb4d9'),
  ('#1f2126', '#22384a', '#28506f', '#2d6a97'),
)


def scale() -> list[list]:
  """A Plotly colour scale from low to high."""
  last = len(_SCALES[0]) - 1
  return [[i / last, color] for i, color in enumerate(_SCALES[0])]


def _hex(at: float) -> str:
  from matplotlib import colormaps
  from matplotlib import colors

  return colors.to_hex(colormaps['viridis'](at))
