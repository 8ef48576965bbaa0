"""Colours by what they stand for, in pairs: on a light page, and on a dark one.

Figures are drawn in the light ones; the page's script puts the dark ones in
their place. All are told apart by the colour-blind (Okabe and Ito's set, Tol's
muted one, viridis), and lines differ in dash and marker, too.
"""

from collections.abc import Sequence

INK = '#1d1c1a'
MUTED = '#6a665f'
GRID = '#e4dfd6'
PAPER = '#fffefc'
LINEAR = '#0072b2'
NEIGHBOR = '#d55e00'
PCA = '#009e73'
SVD = '#b05f8b'
RANDOM = '#8f8a83'

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
  return [_hex(at) for at in _places(count, 0.0, 0.82)]


def themes(most: int) -> dict[str, str]:
  """The dark page's colour for each light one, of up to `most` widths."""
  widths = {}
  for count in range(1, most + 1):
    # On a dark page the widest is the brightest.
    dark = [_hex(at) for at in _places(count, 0.3, 1.0)]
    widths |= zip(of_widths(count), dark, strict=True)
  return {**_DARK, **_CLASSES, **widths, **dict(zip(*_SCALES, strict=True))}


# Ink can be read on all of both.
_SCALES = (
  ('#f6f3ee', '#d3e2ec', '#aacbe2', '#7fb4d9'),
  ('#1f2126', '#22384a', '#28506f', '#2d6a97'),
)


def scale() -> list[list]:
  """A Plotly colour scale from nothing to much."""
  last = len(_SCALES[0]) - 1
  return [[i / last, color] for i, color in enumerate(_SCALES[0])]


def _places(count: int, first: float, last: float) -> Sequence[float]:
  return [first + (last - first) * i / max(count - 1, 1) for i in range(count)]


def _hex(at: float) -> str:
  from matplotlib import colormaps
  from matplotlib import colors

  return colors.to_hex(colormaps['viridis'](at))
