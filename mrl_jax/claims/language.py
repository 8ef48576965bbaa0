"""Claims on texts, and on images with texts."""

import numpy as np

import mrl_jax
from mrl_jax.claims.evidence import by_width
from mrl_jax.claims.evidence import Evidence
from mrl_jax.claims.verdict import Claim
from mrl_jax.claims.verdict import Finding
from mrl_jax.claims.verdict import undecided
from mrl_jax.compare.means import difference
from mrl_jax.compare.means import mean
from mrl_jax.terminal.tables import Table

_TEXTS = (
  'A cat sleeps on the sofa.',
  'Two men play football in the rain.',
  'The stock market fell by three percent.',
  'How do I change a tyre?',
)

SHORTENED = Claim(
  'A prefix, normalised again, is the shortened embedding.',
  "OpenAI's documentation of the parameter dimensions",
  'No number of the two differs by more than 1e-6.',
)


def shortened(evidence: Evidence) -> Finding:
  runs = [x for x in evidence.select('texts') if 'export' in x.workdir.marks()]
  if not runs:
    return undecided('needs a text run with --mode=train,evaluate,export')
  most = 0.0
  for run in runs:
    encoder = mrl_jax.load(run.workdir.path)
    full_ND = encoder.encode(_TEXTS)
    for width in run.config.nesting_dims:
      cut_NM = full_ND[:, :width]
      cut_NM = cut_NM / np.linalg.norm(cut_NM, axis=1, keepdims=True)
      short_NM = encoder.encode(_TEXTS, dim=width)
      most = max(most, float(np.abs(cut_NM - short_NM).max()))
  return Finding(most <= 1e-6, f'They differ by {most:.1e} at most.', runs)


KEPT = Claim(
  'Nested fine-tuning of a text encoder keeps 98 % of the full width on STS at '
  '8.3 % of the width.',
  "sentence-transformers' documentation: 98.37 % at 64 of 768",
  'The mean over seeds of the Spearman correlation at a twelfth of the width '
  'is 98 % of that at the full width, or more.',
)


def kept(evidence: Evidence) -> Finding:
  runs = evidence.select('texts', lambda config: config.encoder == 'pretrained')
  found = by_width(runs, _main(runs, 'spearman')) if runs else {}
  full = max(found, default=0)
  if len(runs) < 2 or full // 12 not in found:
    return undecided(
      'needs two seeds of a fine-tuned text encoder (configs/minilm_mrl.py), '
      'measured on scored pairs at a twelfth of its width'
    )
  shares = [
    100
    * run.at(_main(runs, 'spearman'))[full // 12]
    / run.at(_main(runs, 'spearman'))[full]
    for run in runs
  ]
  return Finding(
    mean(shares).mean >= 98,
    f'{mean(shares)} % at {full // 12} of {full}.',
    runs,
    Table(
      ('width', 'Spearman x 100', '% of the full width'),
      [(w, str(x), 100 * x.mean / found[full].mean) for w, x in found.items()],
    ),
  )


def _main(runs, metric: str) -> str:
  """The name of this metric of a config's first set with it, or of any set."""
  for entry in runs[0].config.eval_sets:
    name = entry.partition(':')[0].partition('=')[0]
    if runs[0].at(f'{name}/{metric}'):
      return f'{name}/{metric}'
  names = sorted(x.partition('@')[0] for x in runs[0].values)
  return next((x for x in names if x.endswith(f'/{metric}')), metric)


TOWERS = Claim(
  'Images with text: small widths of MRL are far ahead of a cut tower.',
  'Section 4.1, Table 5 (ALIGN)',
  'Text-to-image recall@10 at the smallest width is 10 points higher, or more, '
  'than that of a tower for the full width alone, cut to it.',
)


def towers(evidence: Evidence) -> Finding:
  nested = evidence.select('pairs', lambda config: len(config.nesting_dims) > 1)
  alone = evidence.select('pairs', lambda config: len(config.nesting_dims) == 1)
  full = max((x.config.nesting_dims[-1] for x in nested), default=0)
  alone = [x for x in alone if x.config.nesting_dims[-1] == full]
  if len(nested) < 2 or len(alone) < 2:
    return undecided('needs two seeds of nested towers and of the full width')
  name = _main(nested, 't2i_recall10')
  ours, cut = by_width(nested, name), by_width(alone, name)
  widths = [w for w in ours if w in cut]
  if len(widths) < 2:
    return undecided('needs the full-width towers measured at eval_dims')
  lead, noise = difference(ours[widths[0]], cut[widths[0]])
  return Finding(
    lead >= 10,
    f'{lead:+.1f} ± {noise:.1f} points at {widths[0]} of {full}.',
    [*nested, *alone],
    Table(
      ('width', 'MRL', 'cut'),
      [(w, str(ours[w]), str(cut[w])) for w in widths],
    ),
  )
