"""Claims on how nested heads are trained: weights, fine-tuning, speed."""

from collections.abc import Sequence
import math

import numpy as np

from mrl_jax.claims import verdict
from mrl_jax.claims.evidence import by_width
from mrl_jax.claims.evidence import Evidence
from mrl_jax.claims.evidence import Run
from mrl_jax.claims.verdict import Claim
from mrl_jax.claims.verdict import Finding
from mrl_jax.claims.verdict import undecided
from mrl_jax.compare.means import mean
from mrl_jax.terminal.tables import Table
from mrl_jax.workdir.metrics_log import read_metrics

_TOP1 = 'val/top1'

BOOST = Claim(
  'More weight for the smallest width costs the widest little.',
  'Section 5.1, Table 27 (8boost)',
  'The top-1 of the widest is at most 0.5 points lower, or within two standard '
  'errors.',
)


def boost(evidence: Evidence) -> Finding:
  runs = evidence.plain('MRL')
  boosted = evidence.select('MRL', lambda config: bool(config.nesting_weights))
  leads, table = verdict.compared(
    {'plain': by_width(runs, _TOP1), 'weighted': by_width(boosted, _TOP1)}
  )
  widths = [*leads]
  if not widths:
    return undecided('needs two seeds of MRL and of --config.nesting_weights')
  return Finding(
    verdict.is_no_worse(*leads[widths[-1]]),
    f'{leads[widths[0]][0]:+.2f} points at {widths[0]}, '
    f'{leads[widths[-1]][0]:+.2f} at {widths[-1]}.',
    [*runs, *boosted],
    table,
  )


TUNED = Claim(
  'Fine-tuning the last layers of a fixed model recovers most of MRL, the more '
  'the more layers.',
  'Table 26',
  'At the three smallest widths the mean top-1 grows with the number of parts '
  'that train, and the largest keeps 90 % of that of MRL from scratch.',
)


def tuned(evidence: Evidence) -> Finding:
  scratch = evidence.plain('MRL')
  runs = evidence.select(
    'MRL', lambda config: bool(config.init_from and config.trainable)
  )
  groups: dict[tuple[str, ...], list[Run]] = {}
  for run in runs:
    groups.setdefault(tuple(run.config.trainable), []).append(run)
  ordered = sorted(groups, key=lambda parts: (_layers(parts), parts))
  found = [by_width(groups[parts], _TOP1) for parts in ordered]
  whole = by_width(scratch, _TOP1)
  widths = [w for w in whole if all(w in x for x in found)][:3]
  few = min(map(len, (scratch, *groups.values())))
  if len(found) < 2 or len(widths) < 3 or few < 2:
    return undecided(
      'needs two seeds of MRL, and of fine-tuning with two or more choices of '
      'layers'
    )
  means = [float(np.mean([x[w].mean for w in widths])) for x in found]
  share = min(found[-1][w].mean / whole[w].mean for w in widths)
  return Finding(
    means == sorted(means) and share >= 0.9,
    f'Means at {", ".join(map(str, widths))}: '
    + ', '.join(f'{x:.1f}' for x in means)
    + f'; the last keeps {share:.0%} at least.',
    [*scratch, *runs],
    Table(
      ('trained', *map(str, widths)),
      [
        (', '.join(parts), *(str(x[w]) for w in widths))
        for parts, x in zip(ordered, found, strict=True)
      ]
      + [('everything, from scratch', *(str(whole[w]) for w in widths))],
    ),
  )


def _layers(parts: Sequence[str]) -> int:
  """How much trains: a whole block counts for more than its convolutions."""
  return sum(100 if x.count('.') == 1 else 1 for x in parts if x != 'head')


SPEED = Claim(
  'All heads of a step cost no time beside one.',
  "The authors' code takes a product for each head",
  'Images a second while training, of MRL over one fixed head: at least 0.95, '
  'or 1 is within two standard errors.',
)


def speed(evidence: Evidence) -> Finding:
  """Of the runs with the most heads, and the fixed ones of their encoder."""
  runs = [x for x in evidence.runs if x.kind == 'MRL' and _rate(x)]
  most = max((len(x.config.nesting_dims) for x in runs), default=0)
  nested = [x for x in runs if len(x.config.nesting_dims) == most]
  fixed = [
    x
    for x in evidence.runs
    if x.kind == 'FF' and _rate(x) and nested and _is_alike(x, nested[0])
  ]
  if len(nested) < 2 or len(fixed) < 2:
    return undecided('needs two seeds of MRL and of one fixed head')
  ours, theirs = (mean(map(_rate, x)) for x in (nested, fixed))
  ratio = ours.mean / theirs.mean
  noise = 2 * ratio * math.hypot(*(x.error / x.mean for x in (ours, theirs)))
  return Finding(
    ratio >= 0.95 or abs(ratio - 1) <= noise,
    f'{most} heads over one: {ratio:.3f} ± {noise:.3f} of the images a second '
    f'({nested[0].config.encoder}).',
    [*nested, *fixed],
  )


def _rate(run: Run) -> float:
  """The median images a second of a run's log; 0 without a log."""
  records = read_metrics(run.workdir.metrics)
  key = 'train/images_per_second'
  # The first lines have what is compiled and loaded.
  found = [x[key] for x in records if key in x][1:]
  return float(np.median(found)) if found else 0.0


def _is_alike(fixed: Run, nested: Run) -> bool:
  names = ('encoder', 'image_size', 'batch_size', 'dtype', 'train_split')
  return fixed.config.nesting_dims[-1] == nested.config.nesting_dims[
    -1
  ] and all(fixed.config[name] == nested.config[name] for name in names)
