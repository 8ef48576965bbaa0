"""Uses the public functions as their callers do, for mypy to check.

    python -m mypy

reads this file and the modules that pyproject.toml lists; nothing runs it.
"""

from collections.abc import Sequence
import pathlib
from typing import assert_type

from flax import nnx
import jax
import numpy as np

import mrl_jax
from mrl_jax import launch
from mrl_jax import losses
from mrl_jax import models
from mrl_jax import nesting
from mrl_jax import retrieval
from mrl_jax.analysis import cascade
from mrl_jax.interop.classify import Predictions
from mrl_jax.interop.encoder import Encoder
from mrl_jax.interop.text.encoder import TextEncoder
from mrl_jax.models.heads import MatryoshkaHead
from mrl_jax.retrieval import ann
from mrl_jax.retrieval import metrics
from mrl_jax.retrieval import quantized


def exported(path: pathlib.Path, images: Sequence[str | bytes]) -> None:
  encoder: Encoder = mrl_jax.load(path)
  assert_type(encoder.encode(images[0]), np.ndarray)
  assert_type(encoder.encode(list(images), dim=8, normalize=False), np.ndarray)
  found = encoder.classify(list(images), 8, top=2, batch_size=4)
  assert_type(found, Predictions)
  assert_type(found.dims_N, np.ndarray)
  encoder.classify(images[0], cascade=True)
  encoder.classify(images[0], cascade='cascade.json')


def texts(path: pathlib.Path) -> None:
  encoder: TextEncoder = mrl_jax.load(path)
  assert_type(encoder.encode('a text'), np.ndarray)
  assert_type(encoder.encode(['a', b'b'], 8, prompt_name='query'), np.ndarray)


def heads(embedding_ND: jax.Array, label_N: jax.Array) -> None:
  dims = nesting.doubling(8, 64)
  assert_type(dims, tuple[int, ...])
  assert_type(nesting.validate([8, 64], 64), tuple[int, ...])
  head = MatryoshkaHead(dims, 10, kind='mrl_e', rngs=nnx.Rngs(0))
  head.loss(embedding_ND, label_N, label_smoothing=0.1)
  head.at(embedding_ND, (8, 12))
  losses.matryoshka_cross_entropy(head(embedding_ND), label_N)
  losses.matryoshka_contrastive(
    embedding_ND, embedding_ND, nesting_dims=dims, temperature=0.07
  )
  assert_type(models.num_features('resnet50'), int)
  models.create('resnet18', nesting_dims=dims, num_classes=10, rngs=nnx.Rngs(0))


def searches(query_QD: np.ndarray, rows_MD: np.ndarray) -> None:
  database = retrieval.prepare(rows_MD, dims=(8, 64), dtype='bfloat16')
  found = retrieval.search(query_QD, database, 10, dim=8, metric='dot')
  assert_type(found, retrieval.Neighbors)
  assert_type(found.ids_QK, np.ndarray)
  assert_type(found.cost, retrieval.Cost | None)
  ids_QK, scores_QK = retrieval.search(
    query_QD, rows_MD, 10, leave_one_out=True
  )
  assert_type(scores_QK, np.ndarray)
  shortlist = retrieval.adaptive(
    query_QD, database, 10, shortlist_dim=8, rerank_dim=64, shortlist=50
  )
  assert_type(shortlist, retrieval.Neighbors)
  funnel = retrieval.funnel(
    query_QD, database, dims=(8, 32, 64), shortlists=(50, 20, 10)
  )
  assert_type(funnel, retrieval.Neighbors)
  reranked = retrieval.rerank(query_QD, database, ids_QK, 5, dim=64)
  assert_type(reranked, retrieval.Neighbors)
  quantized.quantize(rows_MD, 'binary', 64).search(
    query_QD, 10, rerank_dim=64, shortlist=100
  )
  ann.build(rows_MD, 'ivf', 8, scan_dim=32).search(
    query_QD, 10, rerank_dim=64, shortlist=100
  )


def measures(ids_QK: np.ndarray, label_M: np.ndarray, label_Q: np.ndarray):
  assert_type(metrics.top_k_accuracy(label_M[ids_QK], label_Q, 1), float)
  assert_type(metrics.precision_at_k(label_M[ids_QK], label_Q, 5), float)
  assert_type(
    metrics.mean_average_precision(label_M[ids_QK], label_Q, 10), float
  )


def cascades(path: pathlib.Path, logits_GNC: np.ndarray) -> None:
  rule = cascade.load(path)
  assert_type(rule, cascade.Cascade)
  classes_N, dims_N = cascade.predict(rule, logits_GNC)
  assert_type(classes_N, np.ndarray)
  assert_type(dims_N, np.ndarray)


def command(argv: list[str]) -> None:
  launch.main(launch.parse_flags(argv))
