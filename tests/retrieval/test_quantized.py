"""Codes of few bytes: exact over the codes, good enough to rescore."""

import importlib.util

import numpy as np
import pytest

from mrl_jax import retrieval
from mrl_jax.retrieval import quantized

M, Q, D = 9000, 30, 20


@pytest.fixture(scope='module')
def data():
  random = np.random.default_rng(0)
  rows = random.standard_normal((M + Q, D)) * np.arange(1, D + 1) ** -0.3
  rows = np.maximum(rows + 0.4, 0).astype(np.float32)
  rows[:, 0] += 0.1
  return rows[M:], retrieval.prepare(rows[:M])


@pytest.fixture(scope='module')
def true_ids(data):
  return retrieval.search(*data, 10).ids_QK


def recall(ids, true_ids):
  pairs = zip(ids, true_ids, strict=True)
  return np.mean([len(set(a) & set(b)) / len(b) for a, b in pairs])


@pytest.mark.parametrize('peer', ['faiss', 'numpy'])
@pytest.mark.parametrize('dim', [7, 20])
@pytest.mark.parametrize('k', [5, 300])
def test_binary_is_hamming_distance_ties_to_the_lower_id(
  data, dim, k, peer, monkeypatch
):
  if peer == 'faiss':
    pytest.importorskip('faiss')
  else:
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  index = quantized.quantize(data[1], 'binary', dim)
  prefix = lambda x: (
    x[:, :dim] / np.linalg.norm(x[:, :dim], axis=1, keepdims=True)
  )
  rows, queries = prefix(np.asarray(data[1].embedding_MD)), prefix(data[0])
  center = rows.mean(0)
  distance = ((queries > center)[:, None] != (rows > center)[None]).sum(-1)
  ids = np.argsort(distance, axis=1, kind='stable')[:, :k]
  found = index.search(data[0], k)
  np.testing.assert_array_equal(found.ids_QK, ids)
  expected = 1 - 2 * np.take_along_axis(distance, ids, 1) / dim
  np.testing.assert_allclose(found.scores_QK, expected, atol=1e-6)


def test_int8_finds_what_the_float_prefix_finds(data):
  for dim in (7, 20):
    found = quantized.quantize(data[1], 'int8', dim).search(data[0], 50)
    exact = retrieval.search(*data, 50, dim=dim)
    assert recall(found.ids_QK, exact.ids_QK) > 0.995
    np.testing.assert_allclose(found.scores_QK, exact.scores_QK, atol=1e-3)


def test_int8_scores_are_near_the_cosine(data):
  index = quantized.quantize(data[1], 'int8')
  found = index.search(data[0], 10)
  exact = retrieval.search(*data, 10)
  np.testing.assert_allclose(found.scores_QK, exact.scores_QK, atol=0.01)


@pytest.mark.parametrize(
  ('kind', 'shortlist', 'floor'), [('int8', 20, 0.99), ('binary', 1000, 0.85)]
)
def test_rescored_finds_what_float_finds(
  data, true_ids, kind, shortlist, floor
):
  index = quantized.quantize(data[1], kind)
  found = index.search(data[0], 10, rerank_dim=D, shortlist=shortlist)
  assert recall(found.ids_QK, true_ids) >= floor


@pytest.mark.parametrize('center', ['mean', 'median'])
def test_positive_embeddings_need_a_center(data, true_ids, center):
  share = {
    name: recall(
      quantized.quantize(data[1], 'binary', center=name)
      .search(data[0], 10, rerank_dim=D, shortlist=200).ids_QK,
      true_ids,
    )
    for name in (center, 'zero')
  }  # fmt: skip
  assert share[center] > share['zero'] + 0.1


def test_bytes_and_cost(data):
  int8 = quantized.quantize(data[1], 'int8', 16)
  assert int8.row_bytes == 16
  assert quantized.quantize(data[1], 'binary', 17).row_bytes == 3
  paid = int8.search(data[0], 10, rerank_dim=D, shortlist=100).cost
  assert paid.mflops == pytest.approx((M * 16 + 100 * D) / 1e6)


@pytest.mark.parametrize(
  ('call', 'match'),
  [
    (lambda q, d: quantized.quantize(d, 'int4'), "kind 'int4'"),
    (lambda q, d: quantized.quantize(d, 'int8', 21), '21 is beyond'),
    (lambda q, d: quantized.quantize(d, 'binary', center=0), 'center 0'),
    (
      lambda q, d: quantized.quantize(d, 'int8').search(q, M + 1),
      'shortlist of 9001',
    ),
    (
      lambda q, d: quantized.quantize(d, 'int8').search(q, 5, shortlist=9),
      'both or neither',
    ),
    (
      lambda q, d: quantized.quantize(d, 'int8').search(q[:, :5], 5),
      'width 20',
    ),
  ],
)
def test_bad_input_is_refused(data, call, match):
  with pytest.raises(ValueError, match=match):
    call(*data)
