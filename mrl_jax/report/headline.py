"""The top of the page: the smallest width that is enough, and its savings."""

from collections.abc import Mapping
from typing import Any

from mrl_jax.report.content import Doll
from mrl_jax.report.content import Headline
from mrl_jax.report.content import Tile
from mrl_jax.report.series import FLOAT_BYTES

# Share of the full width's accuracy at which a width counts as enough.
KEEPS = 0.99
_HEADS = {
  'mrl': 'MRL heads',
  'mrl_e': 'the MRL-E head',
  'fixed': 'a fixed-feature head',
}


def make(
  config: Mapping[str, Any],
  values: Mapping[str, float],
  retrieved: Mapping[str, Any] | None,
) -> Headline:
  """Names the smallest width that keeps 99 % of the accuracy, and its savings.

  `values` are the metrics of the evaluation, `retrieved` the content of
  retrieval.json, if there is one.
  """
  dims = tuple(config['nesting_dims'])
  last = dims[-1]
  top1, knn1 = (
    {dim: values[f'val/{name}@{dim}'] for dim in dims}
    for name in ('top1', 'knn1')
  )
  # Neighbours may need more than the classifier does.
  small, near = (
    next(dim for dim in dims if accuracy[dim] >= KEEPS * accuracy[last])
    for accuracy in (top1, knn1)
  )
  over = (
    f'{config["name"]}: {config["encoder"]} with {_HEADS[config["head"]]} on '
    f'{config.get("embeddings") or config["dataset"]}, step {values["step"]:,}'
  )
  if len(dims) == 1:
    return Headline(
      over,
      '',
      f'{top1[last]:.2f} %',
      f'at width {last}.',
      f'The classifier reads the first {last} numbers that the encoder gives, '
      'and the encoder was trained for them alone.',
      [
        Tile(_bytes(last * FLOAT_BYTES), 'for each embedding (float32)'),
        Tile(f'{values[f"val/knn1@{last}"]:.2f} %', '1-NN accuracy'),
      ],
      (),
    )
  if small == last:
    before, stress = 'It takes', f'all {last} numbers'
    after = "to keep 99 % of the classifier's accuracy."
  else:
    before, stress = '', f'{small} of {last} numbers'
    after = "keep 99 % of the classifier's accuracy."
  tiles = [
    Tile(
      f'{top1[small]:.2f} %',
      f'right at width {small}; {top1[last]:.2f} % at the full {last}',
    ),
    Tile(
      _bytes(near * FLOAT_BYTES),
      f'to store an embedding of width {near}, which keeps 99 % of the 1-NN '
      f'accuracy; {_bytes(last * FLOAT_BYTES)} for all {last}: '
      f'1/{last / near:.3g}',
    ),
    _flops(retrieved, near, last),
  ]
  return Headline(
    over,
    before,
    stress,
    after,
    'One encoder, run once: every prefix of its embedding is an embedding by '
    'itself. It costs the same at every width; what is stored and searched '
    'does not.',
    tiles,
    [
      Doll(
        dim,
        f'{top1[dim]:.1f}',
        round(1.4 + 3.8 * (i + 1) / len(dims), 2),
        'chosen' if dim == small else 'keeps' if dim > small else '',
      )
      for i, dim in enumerate(dims)
    ],
  )


def _flops(retrieved, near, last) -> Tile:
  methods = (retrieved or {}).get('methods', {})
  if not {str(near), str(last)} <= methods.keys():
    return Tile(
      f'1/{last / near:.3g}', 'of the multiply-adds when rows are compared'
    )
  few, all_ = (methods[str(d)]['mflops_per_query'] for d in (near, last))
  return Tile(
    f'{few:.3g} MFLOPs',
    f'to search {retrieved["database"]:,} rows at width {near}, not '
    f'{all_:.3g}: 1/{all_ / few:.3g}',
  )


def _bytes(count: float) -> str:
  return f'{count / 1024:.3g} KiB' if count >= 1024 else f'{count:.0f} B'
