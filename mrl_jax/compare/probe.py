"""Linear probes of all prefixes of an embedding, fitted together."""

from collections.abc import Sequence
import time
from typing import NamedTuple

from flax import nnx
import jax
from jax import numpy as jnp
import numpy as np
import optax

from mrl_jax import losses
from mrl_jax import nesting
from mrl_jax import terminal
from mrl_jax.data.batches import order
from mrl_jax.models.heads import MatryoshkaHead
from mrl_jax.retrieval import inputs
from mrl_jax.training import optim

# Rows of a step; epochs, or more where these give fewer than so many steps.
_BATCH, _EPOCHS, _LEAST_STEPS = 1024, 20, 2000
_LEARNING_RATE = 0.1
# Rows read at a time; batches that may wait for the device.
_BLOCK, _AHEAD = 4096, 8
_SAY_SECONDS = 60


class Rows(NamedTuple):
  """Embeddings [N, D], which may stay on disk, and their labels."""

  row_ND: np.ndarray
  label_N: np.ndarray


def top1(
  rows: Rows,
  queries: Rows,
  dims: Sequence[int],
  *,
  num_classes: int,
  order_D: np.ndarray | None = None,
  seed: int = 0,
) -> dict[int, float]:
  """Measures the top-1 in percent of a logistic regression on each prefix.

  Independent classifiers of prefixes are an MRL head. The regression is
  scikit-learn's default one on standardised dims: the sum of the losses plus an
  L2 penalty |W|²/2, without the bias. Adam starts from zero and finds the
  optimum of this convex loss to within its noise; a seed gives the same
  numbers.

  It is fitted to `rows`, read a batch at a time, and classifies `queries`; rows
  of label -1 do not count. Prefixes, of the widths `dims`, are of dims in the
  order `order_D`, None as stored. `seed` orders the visits of the rows. Raises
  ValueError if dims do not fit, a label is outside [0, num_classes), or a row
  is not finite.
  """
  D = rows.row_ND.shape[1]
  dims = nesting.validate(dims, D)
  row_MD, row_label_M = _labelled(*rows, num_classes)
  query_QD, query_label_Q = _labelled(*queries, num_classes)
  prepare = _standardization(
    row_MD, np.arange(D) if order_D is None else order_D
  )
  head = MatryoshkaHead(dims, num_classes, kind='mrl', rngs=nnx.Rngs(0))
  graphdef, params = nnx.split(head, nnx.Param)
  params = jax.tree.map(jnp.zeros_like, nnx.to_pure_dict(params))

  def loss(params, row_BD, label_B):
    return nnx.merge(graphdef, params).loss(prepare(row_BD), label_B)[0]

  params = _fit(loss, params, row_MD, row_label_M, seed)

  @jax.jit
  def classify(params, row_BD):
    return nnx.merge(graphdef, params)(prepare(row_BD)).argmax(-1)

  right_G = np.zeros(len(dims))
  for start in range(0, len(query_QD), _BATCH):
    block = slice(start, start + _BATCH)
    found_GB = np.asarray(classify(params, query_QD[block]))
    right_G += (found_GB == query_label_Q[block]).sum(1)
  return dict(zip(dims, (100 * right_G / len(query_QD)).tolist(), strict=True))


def _labelled(row_ND, label_N, num_classes):
  """The rows whose label is not -1; a copy only where some labels are."""
  label_N = inputs.labels(label_N, 'labels', len(row_ND))
  losses.validate_labels(label_N, num_classes)
  counted = np.flatnonzero(label_N != inputs.IGNORED)
  if not counted.size:
    raise ValueError('every row has label -1: there is nothing to fit or test')
  if counted.size == len(label_N):
    return row_ND, label_N
  return row_ND[counted], label_N[counted]


def _fit(loss, params, row_MD, row_label_M, seed):
  M = len(row_MD)
  batch_size = min(_BATCH, M)
  steps_per_epoch = order.steps_per_epoch(M, batch_size)
  total = max(_LEAST_STEPS, _EPOCHS * steps_per_epoch)
  optimizer = optax.chain(
    optax.add_decayed_weights(1 / M, optim.decay_mask('no_norm_no_bias')),
    optax.adam(
      optax.warmup_cosine_decay_schedule(0, _LEARNING_RATE, total // 20, total)
    ),
  )

  @jax.jit
  def step(params, opt_state, row_BD, label_B):
    gradient = jax.grad(loss)(params, row_BD, label_B)
    updates, opt_state = optimizer.update(gradient, opt_state, params)
    return optax.apply_updates(params, updates), opt_state

  terminal.say(
    f'compare: a probe of random dims, {total:,} steps of {batch_size:,} rows'
  )
  said, opt_state = time.monotonic(), optimizer.init(params)
  for done in range(total):
    epoch, at = divmod(done, steps_per_epoch)
    if not at:
      visits_M = order.epoch_order(seed, epoch, M)
    # Sorted, so that a file on disk is read in one direction.
    rows_B = np.sort(visits_M[at * batch_size : (at + 1) * batch_size])
    params, opt_state = step(
      params, opt_state, row_MD[rows_B], row_label_M[rows_B]
    )
    if not done % _AHEAD:
      jax.block_until_ready(params)
      if time.monotonic() - said > _SAY_SECONDS:
        said = time.monotonic()
        terminal.say(f'compare: step {done:,} of {total:,}')
  return params


def _standardization(row_MD: np.ndarray, order_D: np.ndarray):
  """Returns a function that orders dims and standardises them by the rows."""
  from sklearn import preprocessing

  scaler = preprocessing.StandardScaler()
  for start in range(0, len(row_MD), _BLOCK):
    row_BD = np.asarray(row_MD[start : start + _BLOCK], np.float64)
    finite_B = np.isfinite(row_BD).all(1)
    if not finite_B.all():
      raise ValueError(f'row {start + finite_B.argmin()} is not finite')
    scaler.partial_fit(row_BD)
  mean_1D, std_1D = (
    jnp.asarray(x_D[None, order_D], jnp.float32)
    for x_D in (scaler.mean_, scaler.scale_)
  )
  return lambda row_BD: (row_BD[:, order_D] - mean_1D) / std_1D
