"""Takes a batch of rows from an array that is split over the devices.

Each device needs an equal part of the batch, most of which lies on others. They
send each other what is needed in one all-to-all, padded to a fixed size. The
alternative, a sum over the devices of batches that are zero except for a
device's own rows, sends almost the whole batch through each of them, however
many there are.
"""

import functools

import jax
from jax import numpy as jnp
from jax.sharding import PartitionSpec
import numpy as np


def capacity(rows_TB: np.ndarray, mesh: jax.sharding.Mesh, size: int) -> int:
  """The most rows that one device needs of another for one of T batches.

  `size` is the number of rows that each device holds.
  """
  T, B = rows_TB.shape
  S = mesh.shape['data']
  owner_XB = (rows_TB // size).reshape(T * S, B // S)
  pair_XB = np.arange(T * S)[:, None] * S + owner_XB
  return int(np.bincount(pair_XB.ravel()).max())


def take(
  row_MD: jax.Array,
  rows_B: jax.Array,
  mesh: jax.sharding.Mesh,
  capacity: int,
) -> jax.Array:
  """Returns `row_MD[rows_B]`, bit by bit, split over `data`; traced.

  Args:
    row_MD: the rows, M / S of them on each of the S devices of `data`.
    rows_B: numbers in [0, M), int32, known to every device; B is a multiple of
      S.
    mesh: the mesh.
    capacity: rows that a device sends another at a time. A batch in which one
      needs more of another takes further rounds.
  """
  if mesh.shape['data'] == 1:
    return row_MD.at[rows_B].get(mode='promise_in_bounds')
  split = PartitionSpec('data')
  return jax.shard_map(
    functools.partial(_take, capacity),
    mesh=mesh,
    in_specs=(split, PartitionSpec()),
    out_specs=split,
  )(row_MD, rows_B)


def _take(capacity: int, own_RD: jax.Array, rows_B: jax.Array) -> jax.Array:
  """Returns this device's part of the batch, [P, D], where P = B / S.

  `own_RD` are the rows that lie on this device. Arrays [S, P] have a line for
  each device's part of the batch; C counts the rows of an exchange that one
  device sends another.
  """
  here, S = jax.lax.axis_index('data'), jax.lax.axis_size('data')
  rows_SP = rows_B.reshape(S, -1)
  owner_SP, row_SP = rows_SP // len(own_RD), rows_SP % len(own_RD)
  # A row's place among those that the same device sends to the same one.
  place_SP = jnp.tril(owner_SP[:, :, None] == owner_SP[:, None], -1).sum(-1)
  slot_1C1 = jnp.arange(capacity)[None, :, None]

  def exchange(round):
    is_sent_SCP = (place_SP[:, None] - round * capacity == slot_1C1) & (
      owner_SP[:, None] == here
    )
    sent_SC = jnp.where(is_sent_SCP, row_SP[:, None], 0).sum(-1)
    sent_SCD = own_RD.at[sent_SC].get(mode='promise_in_bounds')
    got_SCD = jax.lax.all_to_all(sent_SCD, 'data', 0, 0)
    where = owner_SP[here], place_SP[here] % capacity
    return got_SCD.at[where].get(mode='promise_in_bounds')

  def add(round, taken_PD):
    is_new_P = place_SP[here] // capacity == round
    return jnp.where(is_new_P[:, None], exchange(round), taken_PD)

  # The same on every device, so that all take part in each round.
  num_rounds = place_SP.max() // capacity + 1
  return jax.lax.fori_loop(1, num_rounds, add, exchange(0))
