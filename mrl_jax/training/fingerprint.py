"""Checksums of arrays that change with any of their bits."""

import math
from typing import Any

import jax
from jax.experimental import multihost_utils
import numpy as np

_MODULUS = 2**32
# 2^32 over the golden ratio, odd: the keys of neighbours lie far apart.
_SPACING = 0x9E3779B9
# Words hashed at once: they and their keys stay in a core's cache.
_BLOCK = 2**16


def by_path(tree: Any) -> dict[str, Any]:
  """The leaves of a tree by dotted path, in order; list indices are text."""
  return {
    jax.tree_util.keystr(path, simple=True, separator='.'): x
    for path, x in jax.tree.leaves_with_path(tree)
  }


def of_arrays(tree: Any) -> dict[str, int]:
  """A 32-bit checksum of each array, by its dotted path.

  Each word of an array (at most 32 bits) is hashed with its position, and the
  hashes are added modulo 2^32. At one position no two words have the same hash,
  so a change of one word is always noticed, and a change of several is missed
  once in 2^32. The order of a sum does not matter, so neither does how an array
  is split over devices and processes.

  The arrays are read on the host, where nothing is compiled for each shape.
  With several processes all must call this; an array that is whole on each is
  read by each.
  """
  named = by_path(tree)
  for x in named.values():
    x.copy_to_host_async()
  # Threads were no faster: numpy's calls on a block are too short for them.
  sums = [_own_sum(x) for x in named.values()]
  if jax.process_count() > 1:
    total = multihost_utils.process_allgather(np.array(sums, np.uint32))
    total = total.sum(0, dtype=np.uint32).tolist()
    for i, x in enumerate(named.values()):
      if not (x.is_fully_addressable or x.is_fully_replicated):
        sums[i] = total[i]
  return dict(zip(named, sums, strict=True))


def _own_sum(x: jax.Array) -> int:
  """The sum over the parts of an array that belong to this process."""
  if x.is_fully_replicated:
    parts = x.addressable_shards[:1]
  else:
    parts = [part for part in x.addressable_shards if not part.replica_id]
  return sum(_part_sum(part, x.shape) for part in parts) % _MODULUS


def _part_sum(part: jax.Shard, shape: tuple[int, ...]) -> int:
  """The sum over a part of an array of this shape."""
  data = np.asarray(part.data, order='C')
  # The last axis holds the words of an element: two if it has 64 bits.
  words = data[..., None].view(f'u{min(data.itemsize, 4)}')
  shape = (*shape, words.shape[-1])
  strides = [_SPACING * math.prod(shape[i + 1 :]) for i in range(len(shape))]
  starts = [(axis.start or 0) for axis in part.index] + [0]
  key = sum(a * b for a, b in zip(starts, strides, strict=True))
  return _sum(words, key, strides)


def _sum(words: np.ndarray, key: int, strides: list[int]) -> int:
  """The sum of the hashes of a block whose first word has this key."""
  if words.size > _BLOCK:
    axis = next(i for i, n in enumerate(words.shape) if n > 1)
    middle = words.shape[axis] // 2
    first, second = np.split(words, [middle], axis)
    rest = _sum(second, key + middle * strides[axis], strides)
    return _sum(first, key, strides) + rest
  hashes = np.array(key % _MODULUS, np.uint32)
  for n, stride in zip(words.shape, strides, strict=True):
    steps = np.arange(n, dtype=np.uint32) * np.uint32(stride % _MODULUS)
    hashes = hashes[..., None] if n == 1 else np.add.outer(hashes, steps)
  hashes ^= words
  # The end of MurmurHash3: one-to-one, and every bit tips half of the others.
  hashes ^= hashes >> 16
  hashes *= np.uint32(0x85EBCA6B)
  hashes ^= hashes >> 13
  hashes *= np.uint32(0xC2B2AE35)
  hashes ^= hashes >> 16
  return int(hashes.sum(dtype=np.uint64))
