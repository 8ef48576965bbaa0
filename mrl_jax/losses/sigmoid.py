"""The sigmoid loss of nested embeddings (arXiv 2303.15343), block by block.

Every pair of a query and a key is a yes or no of its own, so that no sum over
all keys has to be known first: the devices of a mesh pass their keys round,
and each adds up what those that it holds contribute. The backward pass goes
round once more, with the keys' gradients beside them.
"""

from collections.abc import Callable, Sequence
import functools

import jax
from jax import lax
from jax import numpy as jnp

from mrl_jax import checks
from mrl_jax.losses import blocks
from mrl_jax.losses import contrastive
from mrl_jax.losses import pairs
from mrl_jax.losses import product
from mrl_jax.losses import ring
from mrl_jax.losses.product import Spec
from mrl_jax.losses.weighting import weighted_sum


@checks.takes(
  query_ND=checks.floats('ND'),
  key_ND=checks.floats('MD'),
  temperature=checks.each(checks.positive),
  bias=checks.each(checks.number()),
  mask_NM=checks.booleans('NM'),
  normalize=checks.truth,
)
def matryoshka_sigmoid(
  query_ND: jax.Array,
  key_ND: jax.Array,
  *,
  nesting_dims: Sequence[int],
  temperature: float | Sequence[float] | jax.Array,
  bias: float | Sequence[float] | jax.Array,
  mask_NM: jax.Array | None = None,
  weights_G: Sequence[float] | jax.Array | None = None,
  normalize: bool = True,
  axis_name: str | None = None,
) -> tuple[jax.Array, jax.Array]:
  """SigLIP's loss at every prefix, summed (arXiv 2303.15343, algorithm 1).

  The logit of query i and key j is `cosine / temperature + bias`, and the loss
  of query i is -log sigmoid(logit) with its own key i, plus that of the negated
  logit with each other key. One block of the [N, M] logits is in memory at a
  time. With `axis_name` the keys are passed from device to device, so that no
  device ever holds those of all.

  Args:
    query_ND: float embeddings.
    key_ND: float embeddings [M, D] of as many keys, or of more: M >= N. Those
      from the N-th on pair with no query.
    nesting_dims: prefix widths; columns beyond the last are not read.
    temperature: positive divisor of the cosines: one number, or one for each
      width, since the cosines of narrow prefixes spread more. SigLIP learns the
      logarithm of its inverse, from log(10) on.
    bias: added to the logits: one number, or one for each width. SigLIP learns
      it, from -10 on, so that at first most pairs are rightly none.
    mask_NM: bool, False where a key is left out of a query's negatives, as it
      might be right; a query's own key always counts. None leaves none out.
      With `axis_name` its columns are the keys of all devices.
    weights_G: as in `matryoshka_cross_entropy`.
    normalize: whether each prefix is divided by its own norm.
    axis_name: name of a mapped axis (`shard_map`) over whose devices the batch
      is split; the loss is then that of the whole batch.

  Returns:
    The scalar loss `sum_g weights_g * loss_g` and `loss_G` in nats, each the
    mean over the queries.

  Raises:
    ValueError: shapes that do not fit, an empty batch, dims that do not fit,
      bad weights, or a temperature that is not positive (where it is concrete).
  """
  dims = pairs.validate(query_ND, key_ND, nesting_dims, mask_NM, axis_name)
  query_ND, key_ND = query_ND[:, : dims[-1]], key_ND[:, : dims[-1]]
  scale_GN, key_scale_GM = pairs.scales(
    query_ND, key_ND, dims, temperature, normalize
  )
  # A bias for each query, which like all else varies over devices.
  bias_GN = scale_GN * 0 + pairs.each_width('bias', bias, dims)
  spec = Spec(
    dims,
    shared=True,
    dtype=jnp.result_type(query_ND, key_ND),
    block_bytes=contrastive.BLOCK_BYTES,
  )
  loss_GN = binary_cross_entropy(
    spec, axis_name, query_ND, key_ND, scale_GN, key_scale_GM, bias_GN, mask_NM
  )
  loss, loss_G = weighted_sum(loss_GN, weights_G)
  if axis_name is not None:
    loss, loss_G = lax.pmean((loss, loss_G), axis_name)
  return loss, loss_G


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def binary_cross_entropy(
  spec: Spec,
  axis_name: str | None,
  query_ND: jax.Array,
  key_MD: jax.Array,
  scale_GN: jax.Array,
  key_scale_GM: jax.Array,
  bias_GN: jax.Array,
  mask_NM: jax.Array | None,
) -> jax.Array:
  """The loss of each query with all keys, summed over these, [G, N] nats.

  The logit of query i and key j at granularity g is the product of their
  prefixes times `scale_GN[g, i] * key_scale_GM[g, j]`, plus `bias_GN[g, i]`.
  `contrastive.cross_entropy` describes the other arguments.
  """
  inputs = query_ND, key_MD, scale_GN, key_scale_GM, bias_GN, mask_NM
  return _forward(spec, axis_name, *inputs)[0]


def _forward(spec, axis_name, *inputs):
  query_ND, key_MD, scale_GN, key_scale_GM, bias_GN, _ = inputs
  shape = len(query_ND), len(key_MD)

  def visit(held, source, carry):
    total_GN, goes = carry

    def body(total_GN, start, size):
      is_own_NB, only = _which(inputs, source, axis_name, start, size)
      _, products, scale_GB = _block(spec, query_ND, held, start, size)
      losses = [
        only(jax.nn.softplus(_wrong(is_own_NB, _logit(*x)))).sum(1)
        for x in zip(products, scale_GN, scale_GB, bias_GN, strict=True)
      ]
      return total_GN + jnp.stack(losses)

    return blocks.over_blocks(body, total_GN, spec, shape), goes

  # Zeros that vary over devices: in `shard_map` a loop's carry keeps its type.
  carry = scale_GN * 0, ()
  loss_GN, _ = ring.around(axis_name, visit, (key_MD, key_scale_GM), carry)
  return loss_GN, inputs


def _backward(spec, axis_name, inputs, cotangent_GN):
  query_ND, key_MD, scale_GN, key_scale_GM, bias_GN, _ = inputs
  shape = len(query_ND), len(key_MD)

  def visit(held, source, carry):
    def body(carry, start, size):
      (by_query, by_scale, by_bias), (by_key, by_key_scale) = carry
      is_own_NB, only = _which(inputs, source, axis_name, start, size)
      key_DB, products, scale_GB = _block(spec, query_ND, held, start, size)
      by_scales = {}

      def by_product(g):
        """Gradient by the products at granularity g; stores that by scales."""
        logit_NB = _logit(products[g], scale_GN[g], scale_GB[g], bias_GN[g])
        grad_NB = jax.nn.sigmoid(_wrong(is_own_NB, logit_NB))
        grad_NB = only(_wrong(is_own_NB, grad_NB) * cotangent_GN[g][:, None])
        by_scales_NB = grad_NB * products[g]
        by_scales[g] = (
          jnp.dot(by_scales_NB, scale_GB[g], precision='highest'),
          grad_NB.sum(1),
          jnp.dot(scale_GN[g], by_scales_NB, precision='highest'),
        )
        return grad_NB * scale_GN[g][:, None] * scale_GB[g][None, :]

      query_grad, key_grad_DB, _ = product.gradients(
        spec, query_ND, key_DB, by_product
      )
      here = [
        jnp.stack(x)
        for x in zip(*(by_scales[g] for g in sorted(by_scales)), strict=True)
      ]
      return (
        (by_query + query_grad, by_scale + here[0], by_bias + here[1]),
        (
          _add(by_key, key_grad_DB.T, start, 0),
          _add(by_key_scale, here[2], start, 1),
        ),
      )

    return blocks.over_blocks(body, carry, spec, shape)

  zeros = lambda *arrays: tuple(x.astype(jnp.float32) * 0 for x in arrays)
  (by_query, by_scale, by_bias), (by_key, by_key_scale) = ring.around(
    axis_name,
    visit,
    (key_MD, key_scale_GM),
    (zeros(query_ND, scale_GN, bias_GN), zeros(key_MD, key_scale_GM)),
  )
  return (
    by_query.astype(query_ND.dtype),
    by_key.astype(key_MD.dtype),
    by_scale,
    by_key_scale,
    by_bias,
    None,
  )


binary_cross_entropy.defvjp(_forward, _backward)


def _logit(product_NB, scale_N, scale_B, bias_N) -> jax.Array:
  return product_NB * scale_N[:, None] * scale_B[None, :] + bias_N[:, None]


def _block(spec, query_ND, held, start, size):
  """A block of the keys held [D, B], their products for each g, and scales."""
  key_DB = lax.dynamic_slice_in_dim(held[0], start, size).T
  products = product.logits(spec, query_ND, key_DB, jnp.zeros(size))
  scale_GB = lax.dynamic_slice_in_dim(held[1], start, size, axis=1)
  return key_DB, products, scale_GB


def _which(
  inputs, source, axis_name, start, size
) -> tuple[jax.Array, Callable[[jax.Array], jax.Array]]:
  """Whether each key of a block is a query's own, [N, B], and what counts.

  The block begins at `start` of the keys of device `source`. The function
  returned sets to 0 what the mask leaves out.
  """
  query_ND, key_MD, *_, mask_NM = inputs
  here = 0 if axis_name is None else lax.axis_index(axis_name)
  own_N = jnp.arange(len(query_ND)) + (here - source) * len(key_MD)
  is_own_NB = own_N[:, None] == (start + jnp.arange(size))[None, :]
  if mask_NM is None:
    return is_own_NB, lambda x: x
  first = source * len(key_MD) + start
  mask_NB = lax.dynamic_slice_in_dim(mask_NM, first, size, axis=1)
  return is_own_NB, lambda x: jnp.where(is_own_NB | mask_NB, x, 0)


def _wrong(is_own_NB: jax.Array, x_NB: jax.Array) -> jax.Array:
  """The logit of the wrong answer: negated for a query's own key."""
  return jnp.where(is_own_NB, -x_NB, x_NB)


def _add(x: jax.Array, part: jax.Array, start, axis: int) -> jax.Array:
  """Adds a part to the rows or columns from `start` on."""
  here = lax.dynamic_slice_in_dim(x, start, part.shape[axis], axis=axis)
  return lax.dynamic_update_slice_in_dim(x, here + part, start, axis=axis)
