"""The Pallas kernels: interpreted against float64, and lowered."""

import functools

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from mrl_jax.losses import tiles
from mrl_jax.losses.product import Spec

# Tiles small enough that a handful of rows and classes fill several.
TILE = tiles.Tile(16, 16)


def _inputs(dims, N, C, shared, dtype=jnp.float32):
  keys = jax.random.split(jax.random.key(N + C), 4)
  R = dims[-1] if shared else sum(dims)
  bias_shape = (C,) if shared else (len(dims), C)
  return (
    # Two columns that no head reads.
    jax.random.normal(keys[0], (N, dims[-1] + 2), dtype),
    jax.random.normal(keys[1], (R, C), dtype),
    jax.random.normal(keys[2], bias_shape),
    jax.random.randint(keys[3], (N,), 0, C),
  )


def _logits(embedding_ND, kernel_RC, bias, dims, shared):
  """Float64 logits [G, N, C]."""
  embedding_ND, kernel_RC, bias = (
    np.asarray(x, np.float64) for x in (embedding_ND, kernel_RC, bias)
  )
  ends = np.cumsum(dims)
  return np.stack(
    [
      embedding_ND[:, :m] @ kernel_RC[(0 if shared else end - m) :][:m]
      + (bias if shared else bias[g])
      for g, (m, end) in enumerate(zip(dims, ends, strict=True))
    ]
  )


def _log_sum_exp(logits_GNC):
  max_GN1 = logits_GNC.max(-1, keepdims=True)
  return np.log(np.exp(logits_GNC - max_GN1).sum(-1)) + max_GN1[..., 0]


def _check(dims, N, C, shared, dtype, label_smoothing, tolerance):
  inputs = _inputs(dims, N, C, shared, dtype)
  label_N = np.asarray(inputs[3])
  logits_GNC = _logits(*inputs[:3], dims, shared)
  lse_GN = _log_sum_exp(logits_GNC)
  spec = Spec(dims, shared, dtype, label_smoothing, kernel='interpret')
  statistics = functools.partial(tiles.statistics, spec, tile=TILE)
  got = jax.jit(statistics)(*inputs)
  want = (lse_GN, logits_GNC[:, np.arange(N), label_N], logits_GNC.mean(-1))
  for got_GN, want_GN in zip(got, want, strict=True):
    assert got_GN.dtype == jnp.float32
    np.testing.assert_allclose(got_GN, want_GN, rtol=1e-5, atol=1e-5)

  cotangent_GN = np.random.default_rng(0).uniform(size=lse_GN.shape)
  target_NC = (1 - label_smoothing) * np.eye(C)[label_N] + label_smoothing / C
  want_GNC = cotangent_GN[..., None] * (
    np.exp(logits_GNC - lse_GN[..., None]) - target_NC[None]
  )
  gradient = functools.partial(tiles.gradient, spec, num_classes=C, tile=TILE)
  got_GNC = jax.jit(gradient)(
    inputs, got[0], jnp.asarray(cotangent_GN, jnp.float32)
  )
  assert got_GNC.dtype == dtype
  np.testing.assert_allclose(
    np.asarray(got_GNC, np.float64), want_GNC, rtol=tolerance, atol=1e-5
  )


@pytest.mark.parametrize(
  ('platform', 'dims', 'N', 'C', 'shared'),
  [
    # Odd widths, a tail of classes.
    ('cuda', (1, 5, 24), 3, 37, False),
    ('cuda', (1, 5, 24), 3, 37, True),
    # One granularity, one row, less than a tile.
    ('cuda', (7,), 1, 5, False),
    # Several chunks, a tail of rows.
    ('cuda', (8, 40, 70), 18, 16, True),
    # Larger blocks and chunks, cropped otherwise.
    ('tpu', (8, 40, 150), 130, 140, False),
    ('tpu', (8, 40, 150), 3, 5, True),
  ],
)
def test_matches_float64(monkeypatch, platform, dims, N, C, shared):
  monkeypatch.setattr(tiles, '_INTERPRETED', platform)
  _check(dims, N, C, shared, jnp.float32, 0.1, tolerance=1e-5)


def test_bfloat16_inputs_accumulate_in_float32():
  # Only the gradient is rounded, to its 8 bits.
  _check((5, 24), 3, 20, False, jnp.bfloat16, 0.0, tolerance=2**-8)


def test_large_logits_do_not_overflow():
  embedding_ND, kernel_RC, bias, label_N = _inputs((4,), 3, 37, True)
  lse_GN, _, _ = tiles.statistics(
    Spec((4,), shared=True, kernel='interpret'),
    1e4 * embedding_ND,
    kernel_RC,
    bias,
    label_N,
    tile=TILE,
  )
  logits_GNC = _logits(1e4 * embedding_ND, kernel_RC, bias, (4,), True)
  np.testing.assert_allclose(lse_GN, _log_sum_exp(logits_GNC), rtol=1e-5)


@pytest.mark.filterwarnings('ignore:The Pallas Triton backend is deprecated')
@pytest.mark.parametrize(
  ('name', 'target'),
  [('cuda', '__gpu$xla.gpu.triton'), ('tpu', 'tpu_custom_call')],
)
@pytest.mark.parametrize(
  ('shared', 'dtype'), [(False, jnp.bfloat16), (True, jnp.float32)]
)
def test_lowers_without_a_device(name, target, dtype, shared):
  dims = (5, 200)
  inputs = _inputs(dims, 100, 1000, shared, dtype)

  def both(*inputs):
    spec = Spec(dims, shared, dtype, label_smoothing=0.1, kernel='pallas')
    lse_GN, *_ = tiles.statistics(spec, *inputs)
    return tiles.gradient(spec, inputs, lse_GN, lse_GN, num_classes=1000)

  # jax 0.12 wants the GPU named where there is none.
  device = jax.sharding.AbstractDevice('NVIDIA H100', None, 'gpu')
  mesh = jax.sharding.AbstractMesh((), (), abstract_device=device)
  with jax.sharding.use_abstract_mesh(mesh):
    lowered = jax.jit(both).trace(*inputs).lower(lowering_platforms=(name,))
  assert lowered.as_text().count(f'@{target}') == 2
