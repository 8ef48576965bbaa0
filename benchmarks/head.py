"""Times the nested heads with their loss, beside one head and plain PyTorch.

    python -m benchmarks.head [--peer=torch] [--json=FILE]

Forward is the loss, backward its gradients by embedding, kernel and bias.
Milliseconds are medians of alternating runs; temporary memory is what XLA plans
beside arguments and results. `x FF` is the ratio to the fixed head of the full
width, `peer / ours` how many times longer PyTorch takes. `of matmul` is the
rate of the multiply-adds that the gradients need (three products) as a share of
the rate of the full width's product alone. Needs no data.
"""

import argparse
import functools

import jax
from jax import numpy as jnp
import numpy as np

from benchmarks import timing
from mrl_jax import losses
from mrl_jax import nesting
from mrl_jax.losses import fused

WIDTH = 2048
DIMS = nesting.doubling(8, WIDTH)
SIZES = ((256, 1000, 25), (1024, 21841, 3))  # N, C, rounds.
CONTRASTIVE = (4096, 768, 3)  # N, D, rounds.
KINDS = {'FF': 'fixed', 'MRL-E': 'mrl_e', 'MRL': 'mrl'}


def main() -> None:
  parser = argparse.ArgumentParser(
    prog='python -m benchmarks.head', description=__doc__.split('\n')[0]
  )
  parser.add_argument('--peer', choices=('torch', 'torch_compile'))
  parser.add_argument('--json', help='file for the figures')
  parser.add_argument(
    '--dtype', default='float32', choices=('float32', 'bfloat16')
  )
  parser.add_argument('--kernel', default='xla', choices=('xla', 'pallas'))
  parser.add_argument(
    '--divide', type=int, default=1, help='sizes by this, to try it out'
  )
  args = parser.parse_args()
  packages = ['jax', 'jaxlib', *(['torch'] if args.peer else [])]
  record = {'environment': timing.environment(*packages), **vars(args)}
  print(', '.join(f'{k} {v}' for k, v in record['environment'].items()))
  for N, C, rounds in SIZES:
    shape = (max(N // args.divide, 1), C // args.divide)
    title = f'N = {shape[0]}, D = {WIDTH}, C = {shape[1]:,}, {args.dtype}'
    record[title] = _heads(args, *shape, rounds)
    timing.show(title, record[title])
  title = 'Forward + backward as the number of granularities G grows'
  N, C, rounds = SIZES[0]
  record[title] = _growth(args, N // args.divide, C // args.divide, rounds)
  timing.show(title, record[title])
  N, D, rounds = CONTRASTIVE
  title = f'Contrastive, N = {N // args.divide}, D = {D}, G = 7, {args.dtype}'
  record[title] = _contrastive(args, N // args.divide, D, rounds)
  timing.show(title, record[title])
  if args.json:
    timing.write_json(args.json, record)


def arrays(kind: str, dims: tuple[int, ...], N: int, C: int):
  """Embedding, kernel, bias and labels, as a fresh layer would have them."""
  rng = np.random.default_rng(0)
  rows = sum(dims) if kind == 'mrl' else dims[-1]
  bias = (len(dims), C) if kind == 'mrl' else (C,)
  scale = dims[-1] ** -0.5
  return (
    rng.normal(size=(N, dims[-1])).astype(np.float32),
    rng.uniform(-scale, scale, (rows, C)).astype(np.float32),
    rng.uniform(-scale, scale, bias).astype(np.float32),
    rng.integers(0, C, N).astype(np.int32),
  )


def _compile(function, *arrays):
  """A call that waits for the result, and its temporary bytes."""
  arrays = jax.device_put(arrays)
  compiled = jax.jit(function).lower(*arrays).compile()
  memory = compiled.memory_analysis()
  run = lambda: jax.block_until_ready(compiled(*arrays))
  return run, memory.temp_size_in_bytes


def functions_of(spec: fused.Spec):
  """The loss of embedding, kernel, bias and labels, and with its gradients."""

  def loss_fn(embedding_ND, kernel_RC, bias, label_N):
    loss_GN = fused.cross_entropy(spec, embedding_ND, kernel_RC, bias, label_N)
    return losses.weighted_sum(loss_GN)

  return loss_fn, jax.value_and_grad(loss_fn, argnums=(0, 1, 2), has_aux=True)


def _ours(args, kind: str, dims: tuple[int, ...], inputs):
  """Compiled forward, and forward with backward, of one kind of head."""
  spec = fused.Spec(
    dims, shared=kind != 'mrl', dtype=args.dtype, kernel=args.kernel
  )
  return [_compile(function, *inputs) for function in functions_of(spec)]


def _peer(args, kind: str, dims: tuple[int, ...], inputs):
  import torch  # PyTorch is needed for peers only.

  from benchmarks import torch_head

  functions = torch_head.steps(
    kind,
    dims,
    inputs,
    bfloat16=args.dtype == 'bfloat16',
    compiled=torch.compile if args.peer == 'torch_compile' else None,
  )
  return [lambda f=function: f().item() for function in functions]


def _heads(args, N: int, C: int, rounds: int) -> list[timing.Row]:
  functions, memory = {}, {}
  for name, kind in KINDS.items():
    dims = DIMS[-1:] if kind == 'fixed' else DIMS
    inputs = arrays(kind, dims, N, C)
    ways = zip(('f', 'fb'), _ours(args, kind, dims, inputs), strict=True)
    for way, (run, temporary) in ways:
      functions[name, way], memory[name, way] = run, temporary
    if args.peer:
      forward, forward_backward = _peer(args, kind, dims, inputs)
      functions[name, 'peer f'] = forward
      functions[name, 'peer fb'] = forward_backward
  functions['product'], _ = _compile(
    functools.partial(jnp.matmul, preferred_element_type=jnp.float32),
    *(jnp.asarray(x, args.dtype) for x in arrays('fixed', DIMS[-1:], N, C)[:2]),
  )
  ms = timing.medians(functions, rounds)
  rows = []
  for name, kind in KINDS.items():
    work = 3 * (sum(DIMS) if kind == 'mrl' else WIDTH) / WIDTH
    row = {
      'head': name,
      'forward ms': ms[name, 'f'],
      'MB': memory[name, 'f'] / 1e6,
      'forward + backward ms': ms[name, 'fb'],
      'temporary MB': memory[name, 'fb'] / 1e6,
      'x FF': ms[name, 'fb'] / ms['FF', 'fb'],
      'of matmul': work * ms['product'] / ms[name, 'fb'],
    }
    if kind != 'fixed':
      # The logits of all granularities and their gradient.
      kept = 2 * 4 * len(DIMS) * N * C
      row['of materialised'] = memory[name, 'fb'] / kept
    else:
      row['of materialised'] = memory[name, 'fb'] / (2 * 4 * N * C)
    if args.peer:
      row['peer forward ms'] = ms[name, 'peer f']
      row['peer forward + backward ms'] = ms[name, 'peer fb']
      row['peer / ours'] = ms[name, 'peer fb'] / ms[name, 'fb']
    rows.append(row)
  return rows


def _growth(args, N: int, C: int, rounds: int) -> list[timing.Row]:
  """The widest G of the nesting dims, so that the width is always the same."""
  functions = {}
  for G in range(1, len(DIMS) + 1):
    for kind in ('mrl_e', 'mrl'):
      dims = DIMS[-G:]
      _, (run, _) = _ours(args, kind, dims, arrays(kind, dims, N, C))
      functions[kind, G] = run
  ms = timing.medians(functions, rounds)
  return [
    {
      'G': G,
      'MRL-E ms': ms['mrl_e', G],
      'x G=1': ms['mrl_e', G] / ms['mrl_e', 1],
      'MRL ms': ms['mrl', G],
      'x G = 1': ms['mrl', G] / ms['mrl', 1],
      'of them products': sum(DIMS[-G:]) / WIDTH,
    }
    for G in range(1, len(DIMS) + 1)
  ]


def _contrastive(args, N: int, D: int, rounds: int) -> list[timing.Row]:
  dims = nesting.doubling(12, D)
  rng = np.random.default_rng(0)
  arrays = [jnp.asarray(rng.normal(size=(N, D)), args.dtype) for _ in range(2)]

  def plain(query_ND, key_ND):
    """Each prefix on its own, its similarities kept."""
    loss = 0
    for m in dims:
      query, key = (
        x[:, :m] / jnp.linalg.norm(x[:, :m], axis=1, keepdims=True)
        for x in (query_ND, key_ND)
      )
      similarity_NN = 10 * jnp.matmul(
        query, key.T, preferred_element_type=jnp.float32
      )
      normalizers = [jax.nn.logsumexp(similarity_NN, axis) for axis in (0, 1)]
      loss += (sum(normalizers) / 2 - jnp.diagonal(similarity_NN)).mean()
    return loss

  def ours(query_ND, key_ND):
    loss, _ = losses.matryoshka_contrastive(
      query_ND, key_ND, nesting_dims=dims, temperature=0.1
    )
    return loss

  functions, memory = {}, {}
  for name, loss_fn in (('ours', ours), ('each prefix on its own', plain)):
    gradients = jax.value_and_grad(loss_fn, argnums=(0, 1))
    for way, function in (('f', loss_fn), ('fb', gradients)):
      functions[name, way], memory[name, way] = _compile(function, *arrays)
  ms = timing.medians(functions, rounds)
  return [
    {
      'loss': name,
      'forward ms': ms[name, 'f'],
      'MB': memory[name, 'f'] / 1e6,
      'forward + backward ms': ms[name, 'fb'],
      'temporary MB': memory[name, 'fb'] / 1e6,
      'of materialised': memory[name, 'fb'] / (4 * len(dims) * N**2),
    }
    for name in ('ours', 'each prefix on its own')
  ]


if __name__ == '__main__':
  main()
