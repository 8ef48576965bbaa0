"""One page with what a run found; opens from disk, with no network."""

from collections.abc import Mapping, Sequence
import html
import pathlib

from ml_collections import ConfigDict

from mrl_jax import figures
from mrl_jax import files
from mrl_jax import tables
from mrl_jax import terminal
from mrl_jax.stages import build
from mrl_jax.workdir import Workdir
from mrl_jax.writer import read_metrics

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
th, td { text-align: right; padding: .2rem .8rem; white-space: nowrap; }
th { border-bottom: 2px solid #1d2330; font-weight: 600; }
tr:nth-child(even) td { background: #f4f5f8; }
.scroll { overflow-x: auto; margin-top: .8rem; } summary { cursor: pointer; }
"""

_HEADS = {
  'mrl': 'MRL heads',
  'mrl_e': 'the MRL-E head',
  'fixed': 'a fixed-feature head',
}


def outputs(config: ConfigDict, workdir: Workdir) -> list[pathlib.Path]:
  del config
  return [workdir.report / 'index.html']


def run(config: ConfigDict, workdir: Workdir) -> None:
  """Writes report/index.html from metrics.jsonl and retrieval.json.

  The part on retrieval is there if the stage retrieve has run for the
  evaluated checkpoint.
  """
  records = read_metrics(workdir.metrics)
  evaluated = [
    record
    for record in records
    if f'val/knn1@{config.nesting_dims[-1]}' in record
  ]
  if not evaluated:
    raise ValueError(
      f'{workdir.metrics} holds no evaluation: delete {workdir.path}/'
      'stages.json and run --mode=evaluate'
    )
  values = evaluated[-1]
  sections = [_headline(config, values), _accuracy(config, values)]
  path = workdir.retrieval / 'retrieval.json'
  if path.exists():
    retrieved = files.read_json(path)
    if retrieved.get('step') == values['step']:
      sections.append(_retrieval(retrieved))
    else:
      terminal.say(f'report: {path} is of another checkpoint, left out')
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
  with files.replacing(path) as temporary:
    temporary.write_text(page)
  terminal.say(f'report: {path}')


def _headline(config: ConfigDict, values: Mapping[str, float]) -> str:
  dims = tuple(config.nesting_dims)
  last = values[f'val/top1@{dims[-1]}']
  # The smallest width within a point of the full one.
  small = next(d for d in dims if values[f'val/top1@{d}'] >= last - 1)
  text = f'The full width {dims[-1]} has {last:.2f} % top-1'
  if small < dims[-1]:
    text += (
      f'; width {small} has {values[f"val/top1@{small}"]:.2f} %, at '
      f'1/{dims[-1] / small:g} of the numbers'
    )
  dataset = config.embeddings or config.dataset
  return (
    f'<h1>{html.escape(config.name)}</h1><p class="lead">'
    f'{html.escape(config.encoder)} with {_HEADS[config.head]} on '
    f'{html.escape(dataset)}, step {values["step"]:,}. {text}.</p>'
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
  plot = figures.against_width(series, config.nesting_dims, 'accuracy, %')
  return (
    '<h2>Accuracy against width</h2><div class="row">'
    + _figure(
      plot,
      'Top-1 of the nested classifiers, and of the nearest training example '
      'by cosine.',
    )
    + _table(tables.accuracy(values, widths))
    + '</div>'
  )


def _retrieval(record: Mapping) -> str:
  exact, costs = [], {}
  for name, method in record['methods'].items():
    steps = len(method['dims'])
    kind = 'exact' if steps == 1 else 'adaptive' if steps == 2 else 'funnel'
    map10 = method['metrics'].get('map10')
    if map10 is None:
      continue
    point = (method['mflops_per_query'], map10, name)
    costs.setdefault(kind, []).append(point)
    if kind == 'exact':
      exact.append((method['dims'][0], map10))
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
        'A short prefix finds candidates, a long one ranks them. It pays where '
        'the database is much larger than the shortlist.',
      )
      + '</div>'
    )
  return (
    f'<h2>Retrieval: {record["queries"]:,} queries in {record["database"]:,} '
    f'rows</h2>{plots}{_table(tables.retrieval(record["methods"]))}'
    '<p class="lead">Seconds are of all queries together.</p>'
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
    f'{_table(tables.Table(("field", "value"), rows))}</details>'
  )


def _figure(svg: str, caption: str) -> str:
  return (
    f'<figure>{svg}<figcaption>{html.escape(caption)}</figcaption></figure>'
  )


def _table(content: tables.Table) -> str:
  def row(cells, tag):
    texts = (html.escape(tables.show(cell)) for cell in cells)
    return (
      '<tr>' + ''.join(f'<{tag}>{text}</{tag}>' for text in texts) + '</tr>'
    )

  head = row(content.header, 'th')
  body = ''.join(row(cells, 'td') for cells in content.rows)
  return f'<div class="scroll"><table>{head}{body}</table></div>'
