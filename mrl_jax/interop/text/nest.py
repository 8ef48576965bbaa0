"""Makes the prefixes of a text encoder's embedding compare as the whole does.

    python -m mrl_jax.interop.text.nest FOLDER PAIRS[?columns=a,b] … --out=NEW

FOLDER is one of Hugging Face or sentence-transformers, or the workdir of a run
with an export. Each PAIRS is a file of pairs of texts, from which up to
--most pairs are embedded once. A linear map of the embeddings is fitted to
them, and written as a Dense module behind the others; the encoder stays as it
is, and at full width so do the similarities, nearly.
"""

import argparse
from collections.abc import Sequence
import dataclasses

from flax import nnx
import jax
from jax import numpy as jnp
import numpy as np
import optax

from mrl_jax import checks
from mrl_jax import losses
from mrl_jax import nesting
from mrl_jax.data.text import columns as columns_lib
from mrl_jax.data.text import examples
from mrl_jax.interop.text import folder as folder_lib
from mrl_jax.interop.text import hand_over
from mrl_jax.interop.text.encoder import TextEncoder
from mrl_jax.models import text
from mrl_jax.terminal import arguments
from mrl_jax.terminal import ending

# Embeddings in a batch.
_BATCH = 512
_RATE = 2e-3


@checks.takes(
  pair_PCD=checks.floats('PCD'),
  temperature=checks.positive,
  steps=checks.whole(),
)
def fit(
  pair_PCD: np.ndarray | jax.Array,
  nesting_dims: Sequence[int],
  *,
  temperature: float = 0.05,
  steps: int = 300,
  seed: int = 0,
) -> np.ndarray:
  """Fits a linear map whose prefixes keep the similarities of the whole.

  The map W begins as the identity. Adam brings the similarities of each prefix
  of `x @ W` within a batch near to those of x (`losses.matryoshka_similarity`).

  Args:
    pair_PCD: float embeddings of P examples with C related texts each, as those
      of pairs. A batch has whole examples: texts that are near to each other
      are what the map learns from.
    nesting_dims: prefix widths.
    temperature: divides the cosines.
    steps: number of batches.
    seed: seeds the order of the examples.

  Returns:
    The map W, float32 [D, D].

  Raises:
    ValueError: fewer than two embeddings, embeddings that are not finite, or
      dims beyond the width.
  """
  P, C, D = pair_PCD.shape
  dims = nesting.validate(nesting_dims, D)
  pair_PCD = np.asarray(pair_PCD, np.float32)
  if P * C < 2:
    raise ValueError(f'pairs of shape {pair_PCD.shape}: must have two texts')
  if not (is_finite_P := np.isfinite(pair_PCD).all((1, 2))).all():
    raise ValueError(f'pair {is_finite_P.argmin()} is not finite')
  schedule = optax.warmup_cosine_decay_schedule(
    0, _RATE, steps // 10 + 1, steps + 2
  )
  optimizer = optax.adam(schedule)
  rng = np.random.default_rng(seed)
  size = min(P, max(2, _BATCH // C))
  row_SB = np.stack([rng.choice(P, size, replace=False) for _ in range(steps)])

  @jax.jit
  def fitted(pair_PCD, row_SB):
    def update(carry, row_B):
      map_DD, state = carry
      x_ND = pair_PCD[row_B].reshape(-1, D)
      loss = lambda map_DD: losses.matryoshka_similarity(
        x_ND @ map_DD, x_ND, nesting_dims=dims, temperature=temperature
      )[0]
      updates, state = optimizer.update(jax.grad(loss)(map_DD), state)
      return (map_DD + updates, state), None

    start = jnp.eye(D), optimizer.init(jnp.eye(D))
    return jax.lax.scan(update, start, row_SB)[0][0]

  return np.asarray(fitted(pair_PCD, row_SB))


def with_map(encoder: text.TextEncoder, map_DD: np.ndarray) -> text.TextEncoder:
  """The encoder with a linear map [D, D] behind its pooling and projections.

  It shares the arrays of the given one.
  """
  added = text.Projection(encoder.embedding_dim, use_bias=False)
  projections = (*encoder.settings.projections, added)
  settings = dataclasses.replace(encoder.settings, projections=projections)
  made = nnx.eval_shape(lambda: text.create(settings, rngs=nnx.Rngs(0)))
  made.backbone = encoder.backbone
  layers = [*encoder.projections, made.projections[-1]]
  layers[-1].kernel = nnx.Param(jnp.asarray(map_DD))
  made.projections = nnx.List(layers)
  return made


def embed(
  encoder: TextEncoder, entries: Sequence[str], most: int, seed: int
) -> np.ndarray:
  """Embeds up to `most` pairs of files, float32 [P, 2, D].

  An entry is `PATH[?columns=a,b]`, with the columns anchor and positive where
  it says nothing. Raises ValueError for an entry that is none, or its file.
  """
  found = []
  for entry in entries:
    path, _, query = entry.partition('?')
    options = columns_lib.options(entry, query, 'pairs')
    columns = options.get('columns', ('anchor', 'positive'))
    if len(columns) != 2:
      raise ValueError(f'pairs {entry!r}: must have two columns')
    source = examples.open_texts(path, 'pairs', columns)
    found += [[source.texts[i] for i in row] for row in source.text_NC]
  chosen = np.random.default_rng(seed).permutation(len(found))[:most]
  texts = [text for i in chosen for text in found[i]]
  return encoder.encode(texts).reshape(len(chosen), 2, -1)


def write(
  path: str,
  out: str,
  entries: Sequence[str],
  *,
  nesting_dims: Sequence[int] = (),
  most: int = 10_000,
  seed: int = 0,
) -> None:
  """Writes the folder `out`: the encoder of `path` with a fitted map behind it.

  Raises ValueError for what `embed`, `fit` and `TextEncoder` refuse.
  """
  folder = folder_lib.find(path)
  if not folder:
    raise ValueError(f'{path!r}: must be a folder of a text encoder, or a run')
  encoder = TextEncoder(folder)
  dims = tuple(nesting_dims) or encoder.nesting_dims
  if len(dims) == 1:
    dims = nesting.doubling(min(8, encoder.width), encoder.width)
  nesting.validate(dims, encoder.width)
  pair_PCD = embed(encoder, entries, most, seed)
  map_DD = fit(pair_PCD, dims, seed=seed)
  modules = folder_lib.open_folder(folder).modules
  hand_over.write(
    out,
    with_map(encoder.model, map_DD),
    encoder.tokens,
    dims,
    prompts=encoder.prompts,
    default_prompt=encoder.default_prompt,
    lower_case=modules.lower_case,
  )
  print(f'nest: {len(pair_PCD):,} pairs, widths {dims}, in {out}')


def main(argv: Sequence[str] | None = None) -> None:
  parser = argparse.ArgumentParser(
    prog='python -m mrl_jax.interop.text.nest',
    description=__doc__.split('\n')[0],
  )
  add = parser.add_argument
  add('folder', type=arguments.path, help='a text encoder, or a run with one')
  add('pairs', nargs='+', help='PATH[?columns=a,b]')
  add('--out', type=arguments.path, required=True, help='the folder to write')
  add('--dims', type=arguments.wholes, default=(), help='8,16,…')
  add('--most', type=int, default=10_000, help='pairs to embed')
  add('--seed', type=int, default=0)
  args = parser.parse_args(argv)
  with ending.in_one_line():
    write(
      args.folder,
      args.out,
      args.pairs,
      nesting_dims=args.dims,
      most=args.most,
      seed=args.seed,
    )


if __name__ == '__main__':
  main()
