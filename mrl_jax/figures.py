"""The report's plots: numbers in, inline SVG out."""

from collections.abc import Mapping, Sequence
import io

_COLORS = {
  'linear': '#1f5fbf',
  '1-NN': '#d1495b',
  'exact': '#1f5fbf',
  'adaptive': '#d1495b',
  'funnel': '#2a9d6f',
}
Points = Sequence[tuple[float, float]]


def against_width(
  series: Mapping[str, Points], dims: Sequence[int], label: str
) -> str:
  """Lines over the embedding's width, on a logarithmic axis.

  Args:
    series: (width, value) points of each name.
    dims: the widths to mark on the axis.
    label: of the values, with their unit.
  """
  figure, axes = _figure()
  for name, points in series.items():
    x, y = zip(*sorted(points), strict=True)
    axes.plot(x, y, 'o-', label=name, color=_COLORS.get(name), markersize=4)
  axes.set_xscale('log', base=2)
  axes.set_xticks(dims, [str(dim) for dim in dims])
  axes.minorticks_off()
  axes.set_xlabel('embedding width')
  axes.set_ylabel(label)
  axes.legend(frameon=False)
  return _svg(figure)


def trade_off(series: Mapping[str, Sequence[tuple[float, float, str]]]) -> str:
  """mAP@10 over cost: (MFLOPs a query, mAP@10 in percent, name) points."""
  figure, axes = _figure()
  for kind, points in series.items():
    x, y, names = zip(*sorted(points), strict=True)
    marker = {'exact': 'o-', 'adaptive': 's', 'funnel': '^'}[kind]
    fill = 'full' if kind == 'exact' else 'none'
    axes.plot(
      x, y, marker, label=kind, color=_COLORS[kind], fillstyle=fill, zorder=3
    )
    if kind == 'exact':
      for at, value, name in zip(x, y, names, strict=True):
        axes.annotate(
          name, (at, value), (0, -12), textcoords='offset points',
          ha='center', fontsize=7, color='#667',
        )  # fmt: skip
  axes.set_xscale('log')
  axes.set_xlabel('cost, MFLOPs per query')
  axes.set_ylabel('mAP@10, %')
  axes.margins(y=0.15)
  axes.legend(frameon=False)
  return _svg(figure)


def loss_curves(series: Mapping[int, Points]) -> str:
  """The training loss of each width over the steps."""
  from matplotlib import colormaps

  figure, axes = _figure()
  for index, (dim, points) in enumerate(series.items()):
    color = colormaps['viridis'](index / max(len(series), 2))
    marker = 'o' if len(points) < 3 else ''
    x, y = zip(*points, strict=True)
    axes.plot(x, y, marker=marker, label=str(dim), color=color)
  axes.set_xlabel('step')
  axes.set_ylabel('training loss, nats')
  axes.legend(title='width', frameon=False, ncols=2, fontsize=8)
  return _svg(figure)


def _figure():
  # Imported late: half a second that only the report needs. The object
  # interface, since pyplot would look for a display.
  from matplotlib.figure import Figure

  figure = Figure(figsize=(5.4, 3.6), layout='constrained')
  axes = figure.subplots()
  axes.grid(color='#e4e6eb', linewidth=0.7)
  axes.set_axisbelow(True)
  axes.spines[['top', 'right']].set_visible(False)
  return figure, axes


def _svg(figure) -> str:
  import matplotlib

  buffer = io.StringIO()
  # Text stays text, and the same numbers give the same file.
  with matplotlib.rc_context({'svg.fonttype': 'none', 'svg.hashsalt': 'mrl'}):
    figure.savefig(buffer, format='svg', metadata={'Date': None})
  text = buffer.getvalue()
  return text[text.index('<svg') :]
