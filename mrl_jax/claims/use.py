"""Claims on what a trained model is used for: classes, cascade, neighbours."""

import numpy as np

from mrl_jax.claims import verdict
from mrl_jax.claims.evidence import by_width
from mrl_jax.claims.evidence import Evidence
from mrl_jax.claims.evidence import Run
from mrl_jax.claims.verdict import Claim
from mrl_jax.claims.verdict import Finding
from mrl_jax.claims.verdict import undecided
from mrl_jax.compare.means import difference
from mrl_jax.terminal.tables import Table
from mrl_jax.workdir import predictions

_TOP1, _KNN1 = 'val/top1', 'val/knn1'
# Random sets of classes of each size.
_DRAWS = 30
# The share of the full width's accuracy that a width has to keep.
_KEEPS = 0.99

CLASSES = Claim(
  'Fewer classes need fewer dims, and superclasses hold at small widths.',
  'Section 5.1, Figure 10, Table 24',
  'The smallest width that keeps 99 % of the full accuracy grows with the '
  'number of classes; where superclasses were measured, they keep a larger '
  'share at the smallest width than the classes do.',
)


def classes(evidence: Evidence) -> Finding:
  runs = [x for x in evidence.plain('MRL') if _logits_path(x).exists()]
  if len(runs) < 2:
    return undecided('needs two seeds of MRL with --mode=analyze')
  kept = [_by_number_of_classes(run) for run in runs]
  counts = [*kept[0]]
  needed = {k: float(np.mean([x[k] for x in kept])) for k in counts}
  order = [needed[k] for k in counts]
  holds = order == sorted(order) and order[0] < order[-1]
  text = 'Dims for ' + ', '.join(f'{k} classes {needed[k]:.1f}' for k in counts)
  groups = by_width(runs, 'analysis/superclass')
  if groups:
    top1 = by_width(runs, _TOP1)
    shares = [x[min(groups)].mean / x[max(groups)].mean for x in (groups, top1)]
    holds = holds and shares[0] > shares[1]
    text += (
      f'; at {min(groups)} superclasses keep {shares[0]:.1%} of their '
      f'accuracy, classes {shares[1]:.1%}'
    )
  rows = [(k, needed[k]) for k in counts]
  return Finding(holds, f'{text}.', runs, Table(('classes', 'dims'), rows))


def _logits_path(run: Run):
  return run.workdir.predictions / f'{run.config.eval_split}-logits.npy'


def _by_number_of_classes(run: Run) -> dict[int, float]:
  """The mean smallest width that keeps the accuracy among random classes."""
  dims = tuple(run.config.nesting_dims)
  saved = predictions.load(run.workdir.predictions, run.config.eval_split, dims)
  logits_GNC = np.asarray(saved.logits_GNC, np.float32)
  C = logits_GNC.shape[-1]
  rng = np.random.default_rng(0)
  found = {}
  for k in sorted({2, 3, max(2, C // 2), C}):
    widths = []
    for _ in range(1 if k == C else _DRAWS):
      chosen = np.sort(rng.choice(C, k, replace=False))
      rows = np.isin(saved.label_N, chosen)
      if not rows.any():
        continue
      class_GN = chosen[logits_GNC[:, rows][..., chosen].argmax(-1)]
      right_G = (class_GN == saved.label_N[rows]).mean(1)
      widths.append(dims[int((right_G >= _KEEPS * right_G[-1]).argmax())])
    found[k] = float(np.mean(widths))
  return found


CASCADE = Claim(
  'The adaptive cascade keeps the accuracy at a fraction of the dims.',
  'Section 4.2, Figure 6: 76.3 % at 37 of 512',
  'Its top-1 is at most 0.5 points below that of the full width, or within two '
  'standard errors, at half of the dims or fewer.',
)


def cascade(evidence: Evidence) -> Finding:
  runs = evidence.plain('MRL')
  accuracy, dim, top1 = (
    by_width(runs, x)
    for x in ('analysis/cascade_accuracy', 'analysis/cascade_dim', _TOP1)
  )
  if not accuracy or verdict.too_few(*accuracy.values()):
    return undecided('needs two seeds of MRL with --mode=analyze')
  last = max(accuracy)
  lead, share = difference(accuracy[last], top1[last]), dim[last].mean / last
  return Finding(
    verdict.is_no_worse(*lead) and share <= 0.5,
    f'{accuracy[last]} % at {dim[last].mean:.1f} of {last} dims ({share:.2f}); '
    f'all dims have {top1[last]} %.',
    runs,
  )


SATURATION = Claim(
  'Beyond a quarter of the width, neighbours hardly change.',
  'Section 4.3; Figure 9',
  'The nearest neighbours at a quarter of the width share a Jaccard index of '
  '0.5 or more with those at the full width, and 1-NN is within a point.',
)


def saturation(evidence: Evidence) -> Finding:
  runs = evidence.plain('MRL')
  found = (run.record(run.workdir.analysis, 'structure.json') for run in runs)
  records = [*filter(None, found)]
  if len(records) < 2:
    return undecided('needs two seeds of MRL with --mode=analyze')
  dims = records[0]['dims']
  overlap_G = np.mean([np.array(x['overlap'])[-1] for x in records], 0)
  quarter = max([w for w in dims if w <= dims[-1] / 4], default=dims[0])
  shared_ = float(overlap_G[dims.index(quarter)])
  knn1 = by_width(runs, _KNN1)
  loss = knn1[dims[-1]].mean - knn1[quarter].mean
  return Finding(
    shared_ >= 0.5 and loss <= 1,
    f'Jaccard {shared_:.2f} between {quarter} and {dims[-1]}; 1-NN '
    f'{-loss:+.2f} points.',
    runs,
    Table(
      ('width', 'Jaccard with the full width', '1-NN'),
      [
        (w, float(x), str(knn1[w]))
        for w, x in zip(dims, overlap_G, strict=True)
      ],
    ),
  )
