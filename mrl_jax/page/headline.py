"""The top of the page: the width that is enough, and what it saves."""

from collections.abc import Mapping
from typing import Any

from mrl_jax.page.parts import Doll
from mrl_jax.page.parts import Headline
from mrl_jax.page.parts import Tile

# Share of the full width's accuracy that the headline asks for.
KEEPS = 0.99
_HEADS = {
  'mrl': 'MRL heads',
  'mrl_e': 'the MRL-E head',
  'fixed': 'a fixed-feature head',
}
_FLOAT_BYTES = 4


def make(
  config: Mapping[str, Any],
  values: Mapping[str, float],
  retrieved: Mapping[str, Any] | None,
) -> Headline:
  """Which width keeps 99 % of the accuracy, and what that saves."""
  dims = tuple(config['nesting_dims'])
  top1 = {dim: values[f'val/top1@{dim}'] for dim in dims}
  last = dims[-1]
  small = next(dim for dim in dims if top1[dim] >= KEEPS * top1[last])
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
        Tile(_bytes(last * _FLOAT_BYTES), 'for each embedding (float32)'),
        Tile(f'{values[f"val/knn1@{last}"]:.2f} %', '1-NN accuracy'),
      ],
      (),
    )
  if small == last:
    before, stress = 'It takes', f'all {last} numbers'
    after = 'to keep 99 % of the accuracy.'
  else:
    before, stress = '', f'{small} of {last} numbers'
    after = 'keep 99 % of the accuracy.'
  times = f'{last / small:.3g}'
  tiles = [
    Tile(
      f'{top1[small]:.2f} %',
      f'right at width {small}; {top1[last]:.2f} % at the full {last}',
    ),
    Tile(
      _bytes(small * _FLOAT_BYTES),
      f'for each embedding (float32), not {_bytes(last * _FLOAT_BYTES)}: '
      f'1/{times}',
    ),
    _flops(retrieved, small, last),
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


def _flops(retrieved, small, last) -> Tile:
  methods = (retrieved or {}).get('methods', {})
  if not {str(small), str(last)} <= methods.keys():
    return Tile(
      f'1/{last / small:.3g}', 'of the multiply-adds when rows are compared'
    )
  few, all_ = (methods[str(d)]['mflops_per_query'] for d in (small, last))
  return Tile(
    f'{few:.3g} MFLOPs',
    f'to search {retrieved["database"]:,} rows, not {all_:.3g}: '
    f'1/{all_ / few:.3g}',
  )


def _bytes(count: float) -> str:
  return f'{count / 1024:.3g} KiB' if count >= 1024 else f'{count:.0f} B'
