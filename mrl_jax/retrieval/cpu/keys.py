"""Rows of a search as keys to sort: scores first, then ids."""

import numpy as np

from mrl_jax.retrieval.cpu.compiled import loop

# The key of no row, behind all others.
NO_ROW = np.uint64(np.iinfo(np.uint64).max)


@loop
def make(score, row):
  """Rises as the score falls, and with the row where scores are equal."""
  bits = np.float32(score + np.float32(0)).view(np.uint32)
  if bits == np.uint32(0x80000000):
    bits = np.uint32(0)  # -0 and 0 are equal.
  # The bits of negative floats fall already while the floats rise.
  if not bits >> np.uint32(31):
    bits = ~bits & np.uint32(0x7FFFFFFF)
  return (np.uint64(bits) << np.uint64(32)) | np.uint64(row)


@loop
def score_of(key):
  bits = np.uint32(key >> np.uint64(32))
  if not bits >> np.uint32(31):
    bits = ~bits & np.uint32(0x7FFFFFFF)
  return np.uint32(bits).view(np.float32)


@loop
def push(best, q, score, row):
  """Adds a row. Where there is no more room, all but the k best are dropped."""
  key_C, count = best.key_QC[q], best.count_Q[q]
  key_C[count] = make(score, row)
  count += 1
  if count == len(key_C):
    count = best.k
    best.least_Q[q] = max(best.least_Q[q], cut(key_C, count))
  best.count_Q[q] = count


@loop
def cut(key_C, k):
  """Moves the k smallest keys to the front; the k-th best score."""
  select(key_C, k)
  worst = key_C[0]
  for i in range(k):
    worst = max(worst, key_C[i])
  return score_of(worst)


@loop
def select(key_C, k):
  """Moves the k smallest keys to the front (Hoare's quickselect)."""
  low, high = 0, len(key_C) - 1
  while low < high:
    a, b, c = key_C[low], key_C[(low + high) // 2], key_C[high]
    pivot = max(min(a, b), min(max(a, b), c))
    i, j = low, high
    while i <= j:
      while key_C[i] < pivot:
        i += 1
      while key_C[j] > pivot:
        j -= 1
      if i <= j:
        key_C[i], key_C[j] = key_C[j], key_C[i]
        i, j = i + 1, j - 1
    if k - 1 <= j:
      high = j
    elif k - 1 >= i:
      low = i
    else:
      return


@loop
def add(score_QK, ids_QK, left_QK, best):
  """Adds rows whose scores are known, but for those that are left out."""
  for q in range(len(ids_QK)):
    for j in range(ids_QK.shape[1]):
      if not left_QK[q, j]:
        push(best, q, score_QK[q, j], ids_QK[q, j])


@loop
def unpack(key_QC, ids_QK, score_QK):
  """Writes the best ids and scores, sorted; -1 and -inf for no row."""
  for q in range(len(ids_QK)):
    select(key_QC[q], ids_QK.shape[1])
    key_K = np.sort(key_QC[q, : ids_QK.shape[1]])
    for j, key in enumerate(key_K):
      ids_QK[q, j], score_QK[q, j] = -1, -np.inf
      if key != NO_ROW:
        ids_QK[q, j] = np.int64(key & np.uint64(0xFFFFFFFF))
        score_QK[q, j] = score_of(key)
