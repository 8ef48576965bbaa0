"""What the widths of a trained model know together, from what was saved."""

from collections.abc import Mapping, Sequence
import math
import pathlib
from typing import Any

from ml_collections import ConfigDict
import numpy as np

from mrl_jax import embeddings
from mrl_jax import files
from mrl_jax import metrics
from mrl_jax import predictions
from mrl_jax import retrieval
from mrl_jax import tables
from mrl_jax import terminal
from mrl_jax.analysis import calibration
from mrl_jax.analysis import cascade
from mrl_jax.analysis import oracle
from mrl_jax.analysis import outcomes
from mrl_jax.analysis import structure
from mrl_jax.analysis import superclass
from mrl_jax.data import eval_sets
from mrl_jax.predictions import Predictions
from mrl_jax.stages import build
from mrl_jax.workdir import Workdir
from mrl_jax.writer import MetricWriter

# Neighbours that are compared from width to width, and examples that have them.
NEIGHBORS, SAMPLE = 10, 2000
_NAMES = (
  'cascade',
  'cascade_curve',
  'oracle',
  'calibration',
  'per_class',
  'few_shot',
  'structure',
)


def outputs(config: ConfigDict, workdir: Workdir) -> list[pathlib.Path]:
  names = [*_NAMES, *(['superclass'] if config.superclasses else [])]
  return [
    *(workdir.analysis / f'{name}.json' for name in names),
    workdir.analysis / 'table.md',
    workdir.analysis / 'table.csv',
  ]


def run(config: ConfigDict, workdir: Workdir) -> None:
  """Writes analysis/*.json, a table as Markdown and CSV, and prints it.

  Accuracies are in percent. The numbers for each width go to metrics.jsonl,
  too, as `analysis/…@<width>`. Raises ValueError if what evaluate or embed
  write is missing, or of another checkpoint.
  """
  dims = tuple(config.nesting_dims)
  saved = predictions.load(workdir.predictions, config.eval_split, dims)
  embedding_ND, label_N, manifest = embeddings.load(
    workdir.embeddings, config.eval_split
  )
  steps = saved.manifest['step'], manifest['step']
  if steps[0] != steps[1] or not np.array_equal(saved.label_N, label_N):
    raise ValueError(
      f'{workdir.predictions} is of step {steps[0]} and {workdir.embeddings} '
      f'of step {steps[1]}: delete both and run --mode=embed,evaluate'
    )
  evaluated = files.read_json(workdir.evaluation / 'val.json')
  class_names = build.source(config, config.eval_split).class_names
  groups = load_groups(config.superclasses, class_names)
  results = analyze(
    dims,
    saved,
    embedding_ND,
    class_names,
    groups=groups,
    seed=config.seed,
    **config.cascade,
  )
  results['few_shot'] = {
    'dims': evaluated['widths'],
    'settings': [
      {key: setting[key] for key in ('shots', 'ways', 'accuracy', 'std')}
      for setting in evaluated['few_shot']
    ],
  }
  if groups is None:
    (workdir.analysis / 'superclass.json').unlink(missing_ok=True)
  for name, result in results.items():
    files.write_json(workdir.analysis / f'{name}.json', plain(result))
  table = _table(results)
  files.write_text(workdir.analysis / 'table.md', tables.markdown(table))
  files.write_text(workdir.analysis / 'table.csv', tables.csv(table))
  with MetricWriter(workdir.metrics) as writer:
    writer.write(manifest['step'], _metrics(results))
  terminal.say(_lines(config, results) + '\n' + terminal.table(table))


def load_groups(
  superclasses: str, class_names: Sequence[str]
) -> tuple[np.ndarray, tuple[str, ...]] | None:
  """Of a mapping file, or of one that comes with the project; '': None."""
  if not superclasses:
    return None
  path = pathlib.Path(superclasses).expanduser()
  if superclasses == 'wordnet_30':
    path = eval_sets.TABLES / 'wordnet_30.json'
  if not path.is_file():
    raise ValueError(
      f'superclasses {superclasses!r}: must be a JSON file, class to group, or '
      'wordnet_30'
    )
  return superclass.load_groups(path, class_names)


def analyze(
  dims: Sequence[int],
  saved: Predictions,
  embedding_ND: np.ndarray,
  class_names: Sequence[str],
  *,
  groups: tuple[np.ndarray, tuple[str, ...]] | None = None,
  repeats: int = 30,
  fit_share: float = 0.2,
  temperature: float = 1.0,
  seed: int = 0,
) -> dict[str, Any]:
  """Each file's content but that of few_shot.json, as arrays."""
  logits_GNC, prediction_GN, label_N, _ = saved
  found = outcomes.read(
    logits_GNC,
    label_N,
    group_C=groups[0] if groups else None,
    temperature=temperature,
  )
  # Those of float16 logits tie where these do not.
  found = found._replace(prediction_GN=prediction_GN)
  right_GN = prediction_GN == label_N[None]
  confidence_GN = found.confidence_GN
  num_classes = logits_GNC.shape[2]
  curve = cascade.measure(
    dims,
    confidence_GN,
    right_GN,
    fit_share=fit_share,
    repeats=repeats,
    seed=seed,
  )
  fitted = cascade.fit(dims, confidence_GN, right_GN, temperature=temperature)
  per_class_GC = 100 * oracle.per_class(right_GN, label_N, num_classes)
  names = [*class_names, *map(str, range(len(class_names), num_classes))]
  results = {
    'cascade': fitted._asdict(),
    'cascade_curve': {
      'dims': dims,
      'accuracy': _spread(curve.accuracy, 100),
      'expected_dim': _spread(curve.last),
      'cumulated_dim': _spread(curve.cumulated),
      'thresholds': _spread(curve.thresholds),
      'repeats': repeats,
      'fit_share': fit_share,
      'single': 100 * right_GN.mean(1),
    },
    'oracle': _oracle(dims, prediction_GN, right_GN, label_N, per_class_GC),
    'calibration': _calibration(dims, confidence_GN, right_GN),
    'per_class': {'dims': dims, 'classes': names, 'accuracy': per_class_GC},
    'structure': {
      'dims': dims,
      'explained_variance': structure.explained_variance(embedding_ND, dims),
      'overlap': _overlap(embedding_ND, dims, seed),
      'k': NEIGHBORS,
    },
  }
  if groups:
    group_C = np.pad(groups[0], (0, num_classes - len(groups[0])))
    measured = superclass.measure(found, label_N, group_C, len(groups[1]))
    results['superclass'] = {
      'dims': dims,
      'groups': groups[1],
      'accuracy': 100 * measured.accuracy_G,
      'by_group': 100 * measured.accuracy_GS,
      'inside': 100 * measured.inside_GS,
      'across': 100 * measured.across_GS,
      'within': 100 * measured.within_GS,
    }
  return results


def _spread(mean_and_std, scale: float = 1) -> dict[str, np.ndarray]:
  return dict(
    zip(('mean', 'std'), (scale * x for x in mean_and_std), strict=True)
  )


def _oracle(dims, prediction_GN, right_GN, label_N, per_class_GC):
  found = oracle.oracle(dims, right_GN)
  trends = oracle.trends(per_class_GC)
  return {
    'dims': dims,
    'count': found.count_G,
    'never': found.never,
    'examples': len(label_N),
    'accuracy': 100 * found.accuracy,
    'expected_dim': found.expected_dim,
    'majority': 100 * (oracle.majority(prediction_GN) == label_N).mean(),
    'agreement': oracle.agreement(prediction_GN),
    'trends': {name: trends.count(name) for name in dict.fromkeys(trends)},
    'trend_of_class': trends,
  }


def _calibration(dims, confidence_GN, right_GN):
  found = calibration.measure(confidence_GN, right_GN)
  return {
    'dims': dims,
    'ece': 100 * found.error_G,
    'bins': {
      'confidence': 100 * found.confidence_GB,
      'accuracy': 100 * found.accuracy_GB,
      'count': found.count_GB,
    },
  }


def _overlap(embedding_ND, dims, seed):
  """Of the neighbours that some examples have among all, without themselves."""
  N = len(embedding_ND)
  if N <= NEIGHBORS:
    raise ValueError(
      f'{N} examples: too few for {NEIGHBORS} neighbours of each at every '
      'width: evaluate more'
    )
  rng = np.random.default_rng(seed)
  rows = np.sort(rng.choice(N, min(SAMPLE, N), replace=False))
  database = retrieval.prepare(embedding_ND, dims)
  query_QD = np.asarray(embedding_ND[rows])
  ids = []
  for dim in dims:
    found = retrieval.search(query_QD, database, NEIGHBORS + 1, dim=dim)
    ids.append(_without(found.ids_QK, rows))
  return structure.neighborhood_overlap(np.stack(ids))


def _without(ids_QK, row_Q):
  """Each row's neighbours but itself, or, if it is not there, the last."""
  itself_QK = ids_QK == row_Q[:, None]
  itself_QK[~itself_QK.any(1), -1] = True
  return ids_QK[~itself_QK].reshape(len(ids_QK), -1)


def plain(value: Any) -> Any:
  """As JSON has it: arrays are lists, and NaN is null."""
  if isinstance(value, Mapping):
    return {key: plain(x) for key, x in value.items()}
  if isinstance(value, np.ndarray | np.generic):
    value = value.tolist()
  if isinstance(value, list | tuple):
    return [plain(x) for x in value]
  if isinstance(value, float) and math.isnan(value):
    return None
  return value


def _table(results: Mapping[str, Any]) -> tables.Table:
  curve, found = results['cascade_curve'], results['oracle']
  columns = {
    'top-1 %': curve['single'],
    'cascade %': curve['accuracy']['mean'],
    '±': curve['accuracy']['std'],
    'expected dims': curve['expected_dim']['mean'],
    'cumulated': curve['cumulated_dim']['mean'],
    'first right': found['count'],
    'ECE %': results['calibration']['ece'],
    'variance %': 100 * results['structure']['explained_variance'],
  }
  if 'superclass' in results:
    columns['superclass %'] = results['superclass']['accuracy']
  rows = zip(
    curve['dims'], *(x.tolist() for x in columns.values()), strict=True
  )
  return tables.Table(('width', *columns), list(rows))


def _metrics(results: Mapping[str, Any]) -> dict[str, float]:
  curve, found = results['cascade_curve'], results['oracle']
  per_width = {
    'cascade_accuracy': curve['accuracy']['mean'],
    'cascade_dim': curve['expected_dim']['mean'],
    'ece': results['calibration']['ece'],
    'explained_variance': results['structure']['explained_variance'],
  }
  if 'superclass' in results:
    per_width['superclass'] = results['superclass']['accuracy']
  values = {
    'analysis/oracle': found['accuracy'],
    'analysis/majority': found['majority'],
  }
  for name, value_G in per_width.items():
    values |= metrics.per_width(f'analysis/{name}', curve['dims'], value_G)
  return values


def _lines(config: ConfigDict, results: Mapping[str, Any]) -> str:
  found = results['oracle']
  trends = '; '.join(
    f'{count} {name}' for name, count in found['trends'].items()
  )
  return (
    f'analyze: {found["examples"]:,} examples of {config.eval_split}. Some '
    f'width is right on {found["accuracy"]:.2f} %, the smallest one having '
    f'{found["expected_dim"]:.3g} numbers on average, and none on '
    f'{found["never"]:,}; a vote of all widths is on {found["majority"]:.2f} '
    f'%. Classes with width: {trends}'
  )
