"""The fused head and loss against float64, block by block and at once."""

import functools
import itertools

import chex
from flax import nnx
import jax
from jax import numpy as jnp
from jax.sharding import AxisType
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from mrl_jax import losses
from mrl_jax import nesting
from mrl_jax.losses import fused
from mrl_jax.losses import metrics
from mrl_jax.models import heads

# Nothing kept, blocks of 16 classes; or all kept.
BLOCKED = {'kept_bytes': 0, 'block_bytes': 1}
WAYS = {'kept': {}, 'blocked': BLOCKED}
TILED = {**BLOCKED, 'kernel': 'interpret'}
# Embedding width, dims, examples, classes.
SIZES = {
  'odd': (40, (1, 5, 6, 37), 5, 300),
  'one granularity': (16, (16,), 3, 128),
  'one example': (24, (8, 16, 24), 1, 257),
  'few classes': (9, (2, 9), 4, 3),
}


def make(size, kind, **kwargs):
  D, dims, N, C = SIZES[size]
  shared = kind == 'mrl_e'
  rows = dims[-1] if shared else sum(dims)
  rng = np.random.default_rng(0)
  spec = fused.Spec(dims, shared, **kwargs)
  return spec, (
    jnp.asarray(rng.normal(size=(N, D)), jnp.float32),
    jnp.asarray(rng.normal(size=(rows, C)), jnp.float32),
    jnp.asarray(
      rng.normal(size=(C,) if shared else (len(dims), C)), jnp.float32
    ),
    jnp.asarray(rng.integers(0, C, N), jnp.int32),
  )


def exact(spec, embedding_ND, kernel_RC, bias, label_N, cotangent_GN):
  """Logits, loss [G, N] and gradients, head after head in float64."""
  z, kernel, b = (
    np.asarray(x, np.float64) for x in (embedding_ND, kernel_RC, bias)
  )
  by_z, by_kernel, by_b = np.zeros_like(z), np.zeros_like(kernel), b * 0
  (N, _), C = z.shape, kernel.shape[1]
  ends = itertools.accumulate(spec.dims)
  logits_GNC, loss_GN = [], []
  for g, (m, end) in enumerate(zip(spec.dims, ends, strict=True)):
    rows = slice(0, m) if spec.shared else slice(end - m, end)
    at = ... if spec.shared else g
    logits_NC = z[:, :m] @ kernel[rows] + np.broadcast_to(b[at], (N, C))
    shifted_NC = logits_NC - logits_NC.max(-1, keepdims=True)
    log_p_NC = shifted_NC - np.log(np.exp(shifted_NC).sum(-1, keepdims=True))
    target_NC = np.full((N, C), spec.label_smoothing / C)
    target_NC[np.arange(N), label_N] += 1 - spec.label_smoothing
    logits_GNC.append(logits_NC)
    loss_GN.append(-(target_NC * log_p_NC).sum(-1))
    cotangent_N1 = np.asarray(cotangent_GN[g], np.float64)[:, None]
    by_logits_NC = cotangent_N1 * (np.exp(log_p_NC) - target_NC)
    by_z[:, :m] += by_logits_NC @ kernel[rows].T
    by_kernel[rows] += z[:, :m].T @ by_logits_NC
    by_b[at] += by_logits_NC.sum(0)
  return np.stack(logits_GNC), np.stack(loss_GN), (by_z, by_kernel, by_b)


@functools.partial(jax.jit, static_argnums=0)
def fused_all(spec, embedding_ND, kernel_RC, bias, label_N, cotangent_GN):
  loss_GN, pull = jax.vjp(
    lambda *args: fused.cross_entropy(spec, *args, label_N),
    embedding_ND,
    kernel_RC,
    bias,
  )
  logits_GNC = fused.logits(spec, embedding_ND, kernel_RC, bias)
  return logits_GNC, loss_GN, pull(cotangent_GN)


def assert_close(actual, expected, tolerance):
  """Largest difference, relative to the largest value."""
  actual = np.asarray(actual, np.float64)
  scale = np.abs(expected).max()
  assert np.abs(actual - expected).max() <= tolerance * scale


def cotangents(spec, label_N):
  """Any weights, and a masked row."""
  shape = len(spec.dims), len(label_N)
  cotangent_GN = np.random.default_rng(1).uniform(0, 2, shape)
  if len(label_N) > 1:
    cotangent_GN[:, -1] = 0
  return jnp.asarray(cotangent_GN, jnp.float32)


@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize('kind', ['mrl', 'mrl_e'])
@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('smoothing', [0.0, 0.1])
def test_equals_float64(size, kind, way, smoothing):
  spec, args = make(size, kind, label_smoothing=smoothing, **WAYS[way])
  args = (*args, cotangents(spec, args[3]))
  logits_GNC, loss_GN, gradients = fused_all(spec, *args)
  expected = exact(spec, *args)
  assert_close(logits_GNC, expected[0], 1e-5)
  assert_close(loss_GN, expected[1], 1e-5)
  for actual, right in zip(gradients, expected[2], strict=True):
    assert_close(actual, right, 1e-4)


@pytest.mark.parametrize('kind', ['mrl', 'mrl_e'])
def test_tiles_equal_float64(kind):
  spec, args = make('odd', kind, label_smoothing=0.1, **TILED)
  args = (*args, cotangents(spec, args[3]))
  _, loss_GN, gradients = fused_all(spec, *args)
  _, expected_GN, expected = exact(spec, *args)
  assert_close(loss_GN, expected_GN, 1e-5)
  for actual, right in zip(gradients, expected, strict=True):
    assert_close(actual, right, 1e-4)


@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize('kind', ['mrl', 'mrl_e'])
def test_bfloat16_inputs(kind, way):
  spec, args = make('odd', kind, **WAYS[way])
  rounded = [x.astype(jnp.bfloat16) for x in args[:2]]
  args = (*rounded, *args[2:], cotangents(spec, args[3]))
  _, loss_GN, gradients = fused_all(spec, *args)
  expected = exact(spec, *args)
  assert_close(loss_GN, expected[1], 1e-5)
  # The bias's gradient is float32; the others are rounded at the end.
  assert_close(gradients[2], expected[2][2], 1e-4)
  for actual, right, x in zip(gradients, expected[2], args, strict=False):
    assert actual.dtype == x.dtype
    assert_close(actual, right, 4e-3)


@pytest.mark.parametrize('way', WAYS)
def test_computing_in_bfloat16(way):
  spec, args = make('odd', 'mrl', dtype=jnp.bfloat16, **WAYS[way])
  args = (*args, cotangents(spec, args[3]))
  _, loss_GN, gradients = fused_all(spec, *args)
  rounded = [jnp.float32(x.astype(jnp.bfloat16)) for x in args[:2]]
  expected = exact(spec, *rounded, *args[2:])
  assert_close(loss_GN, expected[1], 1e-5)
  # Products take the logits' gradient in bfloat16, too.
  for actual, right in zip(gradients, expected[2], strict=True):
    assert actual.dtype == jnp.float32
    assert_close(actual, right, 1e-2)


@pytest.mark.parametrize('way', WAYS)
def test_numerical_gradients(way):
  spec, args = make('few classes', 'mrl', label_smoothing=0.1, **WAYS[way])
  chex.assert_numerical_grads(
    lambda *inputs: fused.cross_entropy(spec, *inputs, args[3]).sum(),
    args[:3],
    order=1,
    modes=['rev'],
  )


@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize('size', ['odd', 'few classes', 'one example'])
def test_statistics(size, way):
  spec, args = make(size, 'mrl_e', **WAYS[way])
  # Columns that are equal tie at every width, across blocks, too.
  kernel_RC = args[1].at[:, 1::2].set(args[1][:, :1])
  bias = args[2].at[1::2].set(args[2][0])
  args = (args[0], kernel_RC, bias, args[3])
  loss_GN, rank_GN = jax.jit(fused.statistics, static_argnums=0)(spec, *args)
  logits_GNC = fused.logits(spec, *args[:3])
  chex.assert_trees_all_close(
    loss_GN, losses.cross_entropy(logits_GNC, args[3]), rtol=1e-5
  )
  expected_GN = metrics.label_rank(logits_GNC, args[3])
  chex.assert_trees_all_equal(rank_GN, jnp.minimum(expected_GN, 5))


@pytest.mark.parametrize('way', WAYS)
def test_a_diverged_row_is_never_right(way):
  spec, args = make('few classes', 'mrl', **WAYS[way])
  embedding_ND = args[0].at[0].set(jnp.nan)
  loss_GN, rank_GN = fused.statistics(spec, embedding_ND, *args[1:])
  assert jnp.isnan(loss_GN[:, 0]).all() and (rank_GN[:, 0] >= 3).all()
  assert jnp.isfinite(loss_GN[:, 1:]).all()


@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize('kind', ['mrl', 'mrl_e'])
@pytest.mark.parametrize('mesh', [(8, 1), (2, 4)])
def test_sharded_equals_whole(kind, way, mesh):
  """The batch over `data`, the kernel's classes over `model`."""
  D, dims, N, C = 24, (8, 16, 24), 8, 272
  head = heads.MatryoshkaHead(dims, C, kind=kind, rngs=nnx.Rngs(0))
  spec = fused.Spec(dims, kind == 'mrl_e', **WAYS[way])
  args = (
    jax.random.normal(jax.random.key(0), (N, D)),
    head.kernel[...],
    head.bias[...],
    jnp.arange(N) * 30,
    jnp.ones((len(dims), N)),
  )
  expected = fused_all(spec, *args)
  mesh = jax.make_mesh(mesh, ('data', 'model'), axis_types=(AxisType.Auto,) * 2)
  layout = (
    P('data'),
    P(None, 'model'),
    P('model') if kind == 'mrl_e' else P(None, 'model'),
    P('data'),
    P(None, 'data'),
  )
  args = [
    jax.device_put(x, NamedSharding(mesh, spec))
    for x, spec in zip(args, layout, strict=True)
  ]
  chex.assert_trees_all_close(
    fused_all(spec, *args), expected, rtol=1e-5, atol=1e-5
  )


@pytest.mark.parametrize('kind', ['mrl', 'mrl_e'])
def test_memory_is_an_eighth_of_the_logits(kind):
  dims, N, C = nesting.doubling(8, 2048), 1024, 21841
  spec = fused.Spec(dims, kind == 'mrl_e')
  rows = dims[-1] if spec.shared else sum(dims)
  bias = (C,) if spec.shared else (len(dims), C)
  shapes = (N, dims[-1]), (rows, C), bias
  gradient = jax.grad(
    lambda *args: fused.cross_entropy(spec, *args).sum(), argnums=(0, 1, 2)
  )
  compiled = (
    jax.jit(gradient)
    .lower(
      *(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes),
      jax.ShapeDtypeStruct((N,), jnp.int32),
    )
    .compile()
  )
  # The logits and their gradient.
  materialised = 2 * 4 * len(dims) * N * C
  assert compiled.memory_analysis().temp_size_in_bytes <= materialised / 8


@pytest.mark.parametrize('kind', ['mrl', 'mrl_e', 'fixed'])
def test_heads_loss_equals_that_of_its_logits(kind):
  dims = (16,) if kind == 'fixed' else (4, 16)
  head = heads.MatryoshkaHead(dims, 7, kind=kind, rngs=nnx.Rngs(0))
  embedding_ND = jax.random.normal(jax.random.key(0), (6, 20))
  label_N = jnp.array([0, 6, 3, 3, 1, 2])
  kwargs = {
    'weights_G': (1.5,) * len(dims),
    'label_smoothing': 0.1,
    'mask_N': jnp.array([True, True, False, True, False, True]),
  }
  chex.assert_trees_all_close(
    head.loss(embedding_ND, label_N, **kwargs),
    losses.matryoshka_cross_entropy(head(embedding_ND), label_N, **kwargs),
    rtol=1e-6,
  )


@pytest.mark.parametrize(
  'labels, kwargs, match',
  [
    ([0, 7], {}, 'label 7 at position 1'),
    ([0, -2], {}, 'label -2 at position 1'),
    ([0], {}, r'\(1,\) for 2 examples'),
    ([0, 1], {'weights_G': (1,)}, '1 weights for 2'),
    ([0, 1], {'weights_G': (1, -2)}, r'-2\.0'),
    ([0, 1], {'label_smoothing': 1.0}, '1.0'),
    ([0, 1], {'mask_N': jnp.ones(3, bool)}, r'mask of shape \(3,\)'),
  ],
)
def test_the_heads_loss_refuses(labels, kwargs, match):
  head = heads.MatryoshkaHead((4, 8), 7, rngs=nnx.Rngs(0))
  with pytest.raises(ValueError, match=match):
    head.loss(jnp.ones((2, 8)), jnp.array(labels), **kwargs)


def test_the_heads_loss_refuses_an_empty_batch_and_a_narrow_embedding():
  head = heads.MatryoshkaHead((4, 8), 7, rngs=nnx.Rngs(0))
  with pytest.raises(ValueError, match='at least 1'):
    head.loss(jnp.ones((0, 8)), jnp.zeros(0, int))
  with pytest.raises(ValueError, match=r'\(2, 6\).*8'):
    head.loss(jnp.ones((2, 6)), jnp.zeros(2, int))
