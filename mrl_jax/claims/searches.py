"""Claims on retrieval: adaptive searches, and indices on a prefix."""

import numpy as np

from mrl_jax import retrieval
from mrl_jax.claims.evidence import Evidence
from mrl_jax.claims.evidence import Run
from mrl_jax.claims.verdict import Claim
from mrl_jax.claims.verdict import Finding
from mrl_jax.claims.verdict import undecided
from mrl_jax.compare.means import mean
from mrl_jax.terminal.tables import Table
from mrl_jax.workdir import embeddings

ADAPTIVE = Claim(
  'Adaptive retrieval is exact retrieval at a fraction of its cost; a funnel, '
  'too.',
  'Section 4.3.1, Figure 8',
  'Of each there is one whose mAP@10 is within 0.1 points of exact search at '
  'the full width, with fewer multiply-adds and in fewer seconds.',
)


def adaptive(evidence: Evidence) -> Finding:
  runs, records = [], []
  for run in evidence.plain('MRL'):
    if record := run.record(run.workdir.retrieval, 'retrieval.json'):
      runs.append(run)
      records.append(record['methods'])
  if len(runs) < 2:
    return undecided('needs two seeds of MRL with --mode=embed,retrieve')
  exact = str(runs[0].config.nesting_dims[-1])
  rows = []
  for name in records[0]:
    steps = len(name.split('-'))
    if steps < 2 or not all(name in x for x in records):
      continue
    lead = mean(
      x[name]['metrics']['map10'] - x[exact]['metrics']['map10']
      for x in records
    )
    work, seconds = (
      float(np.median([x[name][key] / x[exact][key] for x in records]))
      for key in ('mflops_per_query', 'seconds')
    )
    kind = 'adaptive' if steps == 2 else 'funnel'
    rows.append((name, kind, lead.mean, work, seconds))
  best = {
    kind: min(
      (x for x in rows if x[1] == kind and abs(x[2]) <= 0.1),
      key=lambda row: max(row[3:]),
      default=None,
    )
    for kind in ('adaptive', 'funnel')
  }
  texts = [
    f'{kind}: '
    + (
      f'{x[0]}, {x[2]:+.2f} points, {x[3]:.2f} of the arithmetic, {x[4]:.2f} '
      'of the seconds'
      if x
      else 'none within 0.1 points'
    )
    for kind, x in best.items()
  ]
  return Finding(
    all(x is not None and max(x[3:]) < 1 for x in best.values()),
    '; '.join(texts) + '.',
    runs,
    Table(('widths', 'kind', 'mAP@10 lead', 'arithmetic', 'seconds'), rows),
  )


INDEX = Claim(
  'An index on a prefix beats one on a width that was trained alone.',
  'AdANNS (arXiv 2305.19435), Figure 2',
  'Cells of the same width, one of them scanned: over the widths below the '
  'full one the mean lead in 1-NN top-1 is positive, by more than two standard '
  'errors.',
)


def index(evidence: Evidence) -> Finding:
  try:
    import faiss  # noqa: F401
  except ImportError:
    return undecided('needs Faiss: pip install faiss-cpu')
  runs = {x.config.seed: x for x in evidence.plain('MRL') if _has_rows(x)}
  fixed = {
    w: {x.config.seed: x for x in found if _has_rows(x)}
    for w, found in evidence.fixed().items()
  }
  last = max(fixed, default=0)
  widths = [
    w
    for w in fixed
    if w < last and runs and w in next(iter(runs.values())).config.nesting_dims
  ]
  seeds = [s for s in runs if widths and all(s in fixed[w] for w in widths)]
  if len(seeds) < 2:
    return undecided(
      'needs two seeds of MRL and of each width, with embeddings'
    )
  rows, leads = [], []
  for w in widths:
    ours, alone = (
      [_through_cells(x, w) for x in (found[s] for s in seeds)]
      for found in (runs, fixed[w])
    )
    leads.append(np.subtract(ours, alone))
    rows.append((w, str(mean(ours)), str(mean(alone)), float(leads[-1].mean())))
  lead = mean(np.mean(leads, 0))
  return Finding(
    lead.mean > 2 * lead.error,
    f'The mean lead is {lead.mean:+.2f} ± {2 * lead.error:.2f} points.',
    [*(runs[s] for s in seeds), *(fixed[w][s] for w in widths for s in seeds)],
    Table(('width', 'prefix', 'alone', 'lead'), rows),
  )


def _has_rows(run: Run) -> bool:
  return 'embed' in run.workdir.marks()


def _through_cells(run: Run, width: int) -> float:
  """1-NN top-1 in percent by one of sqrt(M) cells of this width."""
  (rows_MD, label_M, _), (query_QD, label_Q, _) = (
    embeddings.load(run.workdir.embeddings, split)
    for split in (run.config.train_split, run.config.eval_split)
  )
  cells = max(1, round(len(rows_MD) ** 0.5))
  built = retrieval.ann.build(
    np.asarray(rows_MD), 'ivf', width, num_cells=cells, seed=run.config.seed
  )
  ids_QK, _ = built.search(np.asarray(query_QD), 1, probes=1)
  found_Q = retrieval.ann.labels_of(label_M, ids_QK)[:, 0]
  return 100 * float((found_Q == label_Q).mean())
