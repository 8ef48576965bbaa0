"""One page with what a run found; opens from disk, with no network."""

from collections.abc import Mapping, Sequence
import html

from ml_collections import ConfigDict

from mrl_jax import figures
from mrl_jax import workdir as workdir_lib
from mrl_jax import writer as writer_lib
from mrl_jax.stages import build
from mrl_jax.workdir import Workdir

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1d2330; margin: 0 auto;
  padding: 2rem 1.5rem 4rem; max-width: 72rem; }
h1 { font-size: 1.6rem; margin: 0; }
h2 { font-size: 1.15rem; margin-top: 2rem; }
.lead { color: #4a5266; margin-top: .3rem; }
.row { display: grid; gap: 1.5rem;
  grid-template-columns: repeat(auto-fit, minmax(24rem, 1fr)); }
figure { margin: 0; } figcaption { color: #4a5266; font-size: .9rem; }
svg { width: 100%; height: auto; font-family: inherit; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .2rem .8rem; }
th { border-bottom: 2px solid #1d2330; font-weight: 600; }
tr:nth-child(even) td { background: #f4f5f8; }
.scroll { overflow-x: auto; margin-top: .8rem; } summary { cursor: pointer; }
"""

_HEADS = {
  'mrl': 'MRL heads',
  'mrl_e': 'the MRL-E head',
  'fixed': 'a fixed-feature head',
}


def run(config: ConfigDict, workdir: Workdir) -> None:
  """Writes report/index.html from metrics.jsonl and retrieval.json.

  The part on retrieval is there if the stage retrieve has run.
  """
  workdir.require('train', 'report', workdir.metrics)
  records = writer_lib.read_metrics(workdir.metrics)
  if not any('val/knn1' in name for record in records for name in record):
    raise ValueError(
      f'report needs the evaluation, which {workdir.metrics} does not hold: '
      'run --mode=evaluate first'
    )
  values = {}
  for record in records:
    values |= record  # The last evaluation stands.
  sections = [
    _headline(config, workdir, values),
    _accuracy(config, values),
  ]
  path = workdir.retrieval / 'retrieval.json'
  if path.exists():
    sections.append(_retrieval(workdir_lib.read_json(path)))
  sections += [_training(config, records), _settings(workdir)]
  title = html.escape(f'{config.name}: nested embeddings')
  page = (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    f'<title>{title}</title><style>{_STYLE}</style></head><body>\n'
    + '\n'.join(sections)
    + '\n</body></html>\n'
  )
  path = workdir.report / 'index.html'
  with workdir_lib.replacing(path) as temporary:
    temporary.write_text(page)
  writer_lib.say(f'report: {path}')


def _headline(
  config: ConfigDict, workdir: Workdir, values: Mapping[str, float]
) -> str:
  dims = tuple(config.nesting_dims)
  last = values[f'val/top1@{dims[-1]}']
  # The smallest width within a point of the full one.
  small = next(d for d in dims if values[f'val/top1@{d}'] >= last - 1)
  return (
    f'<h1>{html.escape(config.name)}</h1><p class="lead">'
    f'{html.escape(config.encoder)} with {_HEADS[config.head]} on '
    f'{html.escape(config.dataset)}, step {workdir.latest_step():,}. The full '
    f'width {dims[-1]} has {last:.2f} % top-1; width {small} has '
    f'{values[f"val/top1@{small}"]:.2f} %, at 1/{dims[-1] / small:g} of the '
    'numbers.</p>'
  )


def _accuracy(config: ConfigDict, values: Mapping[str, float]) -> str:
  widths = build.widths(config)
  names = {'linear': 'val/top1', '1-NN': 'val/knn1'}
  series = {
    label: [
      (dim, values[f'{name}@{dim}'])
      for dim in widths
      if f'{name}@{dim}' in values
    ]
    for label, name in names.items()
  }
  columns = ('loss', 'top1', 'top5', 'knn1')
  rows = [
    (dim, *(values.get(f'val/{name}@{dim}') for name in columns))
    for dim in widths
  ]
  plot = figures.against_width(series, config.nesting_dims, 'accuracy, %')
  header = ('width', 'loss', 'top-1 %', 'top-5 %', '1-NN %')
  return (
    '<h2>Accuracy against width</h2><div class="row">'
    + _figure(
      plot,
      'Top-1 of the nested classifiers, and of the nearest training example '
      'by cosine.',
    )
    + _table(header, rows)
    + '</div>'
  )


def _retrieval(record: Mapping) -> str:
  exact, costs, rows = [], {}, []
  for name, method in record['methods'].items():
    steps, found = len(method['dims']), method['metrics']
    kind = 'exact' if steps == 1 else 'adaptive' if steps == 2 else 'funnel'
    if found.get('map10') is not None:
      point = (method['mflops_per_query'], found.get('map10'), name)
      costs.setdefault(kind, []).append(point)
      if kind == 'exact':
        exact.append((method['dims'][0], found.get('map10')))
    rows.append(
      (
        name.replace('-', ' → '),
        found.get('top1'),
        found.get('map10'),
        found.get('p10'),
        f'{method["mflops_per_query"]:.4g}',
        f'{method["seconds"]:.4f}',
      )
    )
  plots = ''
  if exact:
    dims = [dim for dim, _ in exact]
    plots = (
      '<div class="row">'
      + _figure(
        figures.against_width({'exact': exact}, dims, 'mAP@10, %'),
        'Exact search at each width.',
      )
      + _figure(
        figures.trade_off(costs),
        'A short prefix finds candidates, a long one ranks them: the accuracy '
        'of the long one at nearly the cost of the short one.',
      )
      + '</div>'
    )
  header = (
    'widths',
    'top-1 %',
    'mAP@10 %',
    'P@10 %',
    'MFLOPs/query',
    'seconds',
  )
  return (
    f'<h2>Retrieval: {record["queries"]:,} queries in {record["database"]:,} '
    f'rows</h2>{plots}{_table(header, rows)}'
  )


def _training(config: ConfigDict, records: Sequence[Mapping]) -> str:
  series = {
    dim: [
      (record['step'], record[f'train/loss@{dim}'])
      for record in records
      if f'train/loss@{dim}' in record
    ]
    for dim in config.nesting_dims
  }
  plot = figures.loss_curves(series)
  caption = 'The loss of each width; their weighted sum is trained.'
  row = f'<div class="row">{_figure(plot, caption)}<div></div></div>'
  return f'<h2>Training</h2>{row}'


def _settings(workdir: Workdir) -> str:
  rows = [(name, repr(value)) for name, value in sorted(workdir.config.items())]
  return (
    '<h2>Settings</h2><details><summary>The resolved config</summary>'
    f'{_table(("field", "value"), rows)}</details>'
  )


def _figure(svg: str, caption: str) -> str:
  return (
    f'<figure>{svg}<figcaption>{html.escape(caption)}</figcaption></figure>'
  )


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
  def show(cell):
    if cell is None:
      return '–'
    return f'{cell:.2f}' if isinstance(cell, float) else html.escape(str(cell))

  head = ''.join(f'<th>{html.escape(cell)}</th>' for cell in header)
  body = ''.join(
    '<tr>' + ''.join(f'<td>{show(cell)}</td>' for cell in row) + '</tr>'
    for row in rows
  )
  return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'
