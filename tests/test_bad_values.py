# ruff: noqa: C408 (keyword arguments read as in a call)
"""Bad values of every type, in every argument: a result, or one line.

Each public function is called with arguments that are right but for one, which
takes each of BAD in turn. What it does not take is refused by a ValueError of
one line with the argument's value; a TypeError is for calls that Python itself
refuses, and none is made here.
"""

import decimal
import math
import pathlib
import re
import warnings

from flax import nnx
import numpy as np
import pytest

from mrl_jax import losses
from mrl_jax import models
from mrl_jax import nesting
from mrl_jax import retrieval
from mrl_jax.analysis import calibration
from mrl_jax.analysis import cascade
from mrl_jax.analysis import few_shot
from mrl_jax.analysis import oracle
from mrl_jax.analysis import per_example
from mrl_jax.analysis import structure
from mrl_jax.models import heads
from mrl_jax.retrieval import ann
from mrl_jax.retrieval import metrics
from mrl_jax.retrieval import quantized
from mrl_jax.retrieval.plan import budget
from mrl_jax.training import optim
from mrl_jax.training import sharding

RNG = np.random.default_rng(0)
Q, M, D, K, G, N, C = 3, 6, 4, 2, 2, 5, 3
ROWS = RNG.normal(size=(M, D)).astype(np.float32)
QUERIES = RNG.normal(size=(Q, D)).astype(np.float32)
LOGITS = RNG.normal(size=(G, N, C)).astype(np.float32)
LABELS = np.array([0, 1, 2, 0, 1])
RIGHT = RNG.random((G, N)) < 0.5
CONFIDENCE = RNG.random((G, N)).astype(np.float32)
NEAR = np.array([[0, 1], [1, 1], [2, 0]])
MASK = np.ones(N, bool)

NUMBERS = (
  None, True, False, -1, 0, 1, 7, 1.5, -0.5, math.nan, math.inf, -math.inf,
  2**70, -(2**70), 1e300, 1j, np.int8(2), np.uint64(2**63), np.float16(0.5),
  np.datetime64('2020'), decimal.Decimal(2),
)  # fmt: skip
OTHERS = (
  '', 'x', '8,16', b'x', 'two\nlines', (), [], {}, set(), {1, 2}, {'a': 1},
  (2, 4), (4, 2), (0,), (2, 2), [1, 'x'], (None,), ((1, 2), (3,)), (math.nan,),
  (True, 2), ('8boost',), object(), len, int, slice(2), range(3),
  pathlib.Path('x'), iter(()), np.float32, 'float16', 'bfloat16',
)  # fmt: skip
ARRAYS = (
  np.float32(1), np.array(2), np.array(1.5), np.empty(0), np.empty((0, 4)),
  np.zeros((3, 0), np.float32), np.zeros((3, 4), np.float32),
  np.full((3, 4), np.nan, np.float32), np.full((6, 4), np.inf, np.float32),
  np.ones((2, 2, 2, 2), np.float32), np.ones(5, np.float32),
  np.ones((6, 4), np.complex64), np.array(['a', 'b']), np.array([None, 1]),
  np.array([[{}, 1]] * 3), np.ones((2, 5), bool), np.arange(5) - 9,
  np.arange(5) + 2**62, np.array([2**63] * 5, np.uint64),
  np.ones((6, 4), '>f4'),
  np.array(['2020'] * 5, 'datetime64[D]'), np.zeros(5, 'i4,f4'),
  np.ma.masked_array(np.ones(5), [1, 0, 0, 0, 0]),
  np.ones((3, 4)).view(np.recarray),
  np.ones((3, 4), np.float16), np.arange(5).astype('>i4'), np.ones(5, 'V4'),
)  # fmt: skip
BAD = NUMBERS + OTHERS + ARRAYS
# Of them, for each argument.
SAMPLE = 5


def index(kind='ivf'):
  return ann.build(ROWS, kind, 2, num_cells=2)


def head(**options):
  return heads.MatryoshkaHead(
    **{'nesting_dims': (2, 4), 'num_classes': C, 'rngs': nnx.Rngs(0)} | options
  )


HEAD, MRL_E = head(), head(kind='mrl_e')
DATABASE = retrieval.prepare(ROWS)
IVF, INT8 = index(), quantized.quantize(ROWS, 'int8')
RULE = cascade.Cascade((2, 4), (0.5,))
OUTCOMES = dict(confidence_GN=CONFIDENCE, right_GN=RIGHT)
NEIGHBORS = dict(neighbor_label_QK=NEAR, query_label_Q=np.arange(Q))
FEW = dict(
  support_MD=ROWS, support_label_M=np.arange(M) % 3, query_QD=QUERIES,
  query_label_Q=np.arange(Q), dims=(2, 4), shots=1, ways=2, repeats=1, seed=0,
)  # fmt: skip
SEARCH = dict(query_QD=QUERIES, database_MD=ROWS)


def make_schedule(**arguments):
  return optim.schedule(**arguments)(1)


# A call, and arguments that are right.
CALLS = {
  'doubling': (nesting.doubling, dict(first=2, last=8)),
  'validate': (nesting.validate, dict(nesting_dims=(2, 4), dim=4)),
  'validate_weights': (
    nesting.validate_weights, dict(weights_G=(1, 2), num_granularities=2),
  ),
  'validate_per_step': (
    nesting.validate_per_step, dict(per_step=2, num_granularities=3),
  ),
  'cross_entropy': (
    losses.matryoshka_cross_entropy,
    dict(
      logits_GNC=LOGITS, label_N=LABELS, weights_G=(1, 2), mask_N=MASK,
      label_smoothing=0.1,
    ),
  ),
  'contrastive': (
    losses.matryoshka_contrastive,
    dict(
      query_ND=QUERIES, key_MD=QUERIES, nesting_dims=(2, 4), temperature=0.1,
      weights_G=None,
    ),
  ),
  'head': (
    head,
    dict(
      nesting_dims=(2, 4), num_classes=C, kind='mrl', dtype='float32',
      loss_kernel='xla',
    ),
  ),
  'head.call': (HEAD, dict(embedding_ND=QUERIES)),
  'head.at': (MRL_E.at, dict(embedding_ND=QUERIES, dims=(2, 3))),
  'head.weights': (HEAD.weights, dict(g=0)),
  'head.loss': (
    HEAD.loss,
    dict(
      embedding_ND=QUERIES, label_N=np.arange(3), weights_G=None, mask_N=None,
      label_smoothing=0.1,
    ),
  ),
  'head.statistics': (
    MRL_E.statistics,
    dict(embedding_ND=QUERIES, label_N=np.arange(3), dims=(2,)),
  ),
  'num_features': (models.num_features, dict(name='resnet18')),
  'create': (
    lambda **options: nnx.eval_shape(
      lambda: models.create(rngs=nnx.Rngs(0), **options)
    ),
    dict(
      name='resnet8', image_size=32, blurpool=False, drop_path=0.0,
      remat=False, dtype='float32',
    ),
  ),
  'prepare': (retrieval.prepare, dict(database_MD=ROWS, dims=(2,), dtype=None)),
  'search': (
    retrieval.search,
    dict(**SEARCH, k=2, dim=4, metric='cosine', recall=None),
  ),
  'adaptive': (
    retrieval.adaptive,
    dict(
      **SEARCH, k=2, shortlist_dim=2, rerank_dim=4, shortlist=3, metric='dot',
    ),
  ),
  'funnel': (
    retrieval.funnel, dict(**SEARCH, dims=(2, 4), shortlists=(3, 2)),
  ),
  'rerank': (
    retrieval.rerank, dict(**SEARCH, ids_QK=NEAR, k=1, dim=2, metric='cosine'),
  ),
  'top_k_accuracy': (metrics.top_k_accuracy, dict(**NEIGHBORS, k=1)),
  'precision_at_k': (metrics.precision_at_k, dict(**NEIGHBORS, k=1)),
  'recall_at_k': (
    metrics.recall_at_k, dict(**NEIGHBORS, k=1, num_relevant=2),
  ),
  'mean_average_precision': (
    metrics.mean_average_precision,
    dict(**NEIGHBORS, k=1, ap_denominator='min(k,R)', num_relevant=2),
  ),
  'summary': (
    metrics.summary,
    dict(**NEIGHBORS, ks=(1, 2), ap_denominator='k', num_relevant=2),
  ),
  'count_relevant': (
    metrics.count_relevant,
    dict(database_label_M=np.arange(M), query_label_Q=np.arange(Q)),
  ),
  'k_recall': (metrics.k_recall, dict(ids_QN=NEAR, true_ids_QK=NEAR)),
  'distinct_labels': (
    metrics.distinct_labels, dict(neighbor_label_QK=NEAR, k=2),
  ),
  'ann.build': (
    ann.build,
    dict(
      database_MD=ROWS, kind='ivf', dim=2, scan_dim=4, num_cells=2, seed=0,
    ),
  ),
  'ann.build hnsw': (
    ann.build,
    dict(database_MD=ROWS, kind='hnsw', dim=2, links=4, effort=4),
  ),
  'index.search': (
    IVF.search,
    dict(
      query_QD=QUERIES, k=1, scan_dim=4, coarse_dim=2, probes=2, rerank_dim=4,
      shortlist=2,
    ),
  ),
  'labels_of': (ann.labels_of, dict(label_M=np.arange(M), ids_QK=NEAR)),
  'quantize': (
    quantized.quantize,
    dict(database_MD=ROWS, kind='binary', dim=4, center='mean'),
  ),
  'quantized.search': (
    INT8.search, dict(query_QD=QUERIES, k=1, rerank_dim=4, shortlist=2),
  ),
  'budget': (
    budget.fits,
    dict(rows=1000, budget=1e6, shortlist_dim=16, shortlist=20, width=64),
  ),
  'cascade.fit': (
    cascade.fit, dict(dims=(2, 4), **OUTCOMES, temperature=1.0),
  ),
  'cascade.stops': (
    cascade.stops, dict(cascade=RULE, confidence_GN=CONFIDENCE),
  ),
  'cascade.predict': (cascade.predict, dict(cascade=RULE, logits_GNC=LOGITS)),
  'cascade.measure': (
    cascade.measure,
    dict(dims=(2, 4), **OUTCOMES, fit_share=0.5, repeats=2, seed=0),
  ),
  'calibration': (calibration.bin_confidences, dict(**OUTCOMES, bins=5)),
  'oracle': (oracle.oracle, dict(dims=(2, 4), right_GN=RIGHT)),
  'majority': (oracle.majority, dict(prediction_GN=NEAR)),
  'agreement': (oracle.agreement, dict(prediction_GN=NEAR)),
  'per_class': (
    oracle.per_class, dict(right_GN=RIGHT, label_N=LABELS, num_classes=C),
  ),
  'outcomes': (
    per_example.read,
    dict(
      logits_GNC=LOGITS, label_N=LABELS, group_C=np.arange(C), temperature=1.0,
    ),
  ),
  'few_shot': (few_shot.few_shot, FEW),
  'vote': (few_shot.vote, dict(neighbor_label_QK=NEAR)),
  'explained_variance': (
    structure.explained_variance, dict(embedding_ND=ROWS, dims=(2, 4)),
  ),
  'project': (
    structure.project, dict(embedding_ND=ROWS, dims=(2, 4), components=2),
  ),
  'align': (structure.align, dict(points_NK=ROWS, target_NK=ROWS)),
  'neighborhood_overlap': (
    structure.neighborhood_overlap,
    dict(ids_GNK=np.stack([np.arange(6).reshape(3, 2)] * 2)),
  ),
  'schedule': (
    make_schedule,
    dict(
      name='cyclic', learning_rate=0.1, steps_per_epoch=3, num_epochs=4,
      peak_epoch=2,
    ),
  ),
  'schedule step': (
    make_schedule,
    dict(
      name='step', learning_rate=0.1, steps_per_epoch=3, num_epochs=4,
      step_epochs=(1, 2), step_factor=0.1,
    ),
  ),
  'decay_mask': (optim.decay_mask, dict(name='all')),
  'sgd': (
    optim.sgd,
    dict(learning_rate=0.1, momentum=0.9, weight_decay=0.1, mask='all'),
  ),
  'adamw': (
    optim.adamw,
    dict(learning_rate=0.1, betas=(0.9, 0.999), weight_decay=0.1, mask='all'),
  ),
  'make_mesh': (sharding.make_mesh, dict(data=1, model=1)),
  'check_batch_size': (
    lambda **sizes: sharding.check_batch_size(
      mesh=sharding.make_mesh(1), **sizes
    ),
    dict(batch_size=4, micro_batches=2),
  ),
}  # fmt: skip


def outcome(call, arguments):
  """'' where the call works or refuses in one line; else what it did."""
  try:
    with warnings.catch_warnings():
      warnings.simplefilter('error')
      call(**arguments)
  except ValueError as error:
    text = str(error)
    if not text or len(text.splitlines()) > 1 or len(text) > 1000:
      return f'ValueError of {len(text.splitlines())} lines: {text[:80]!r}'
  except Exception as error:
    return f'{type(error).__name__}: {str(error)[:80]!r}'
  return ''


@pytest.mark.parametrize('name', CALLS)
def test_right_values_are_taken(name):
  call, arguments = CALLS[name]
  call(**arguments)


def test_bad_values_are_refused_in_one_line():
  """A sample, as each new shape that is taken is compiled."""
  choose = np.random.default_rng(13)
  failures = []
  for name, (call, arguments) in CALLS.items():
    for argument in arguments:
      for i in choose.choice(len(BAD), SAMPLE, replace=False):
        if said := outcome(call, {**arguments, argument: BAD[i]}):
          value = ' '.join(repr(BAD[i]).split())[:60]
          failures.append(f'{name}({argument}={value}): {said}')
  assert not failures, '\n'.join(failures)


def test_an_error_names_the_argument_and_its_value():
  for name, argument, value, line in (
    ('search', 'k', 1.5, 'k 1.5: must be a whole number'),
    ('search', 'k', True, 'k True: must be a whole number'),
    ('search', 'metric', 'l2', "metric 'l2': must be one of"),
    ('quantize', 'kind', {1}, 'kind {1}: must be one of'),
    ('schedule', 'learning_rate', math.nan, 'learning_rate nan: must be'),
    ('cross_entropy', 'label_N', np.ones(5), 'label_N, float64 of shape (5,)'),
    ('doubling', 'last', math.inf, 'last inf: must be a whole number'),
    ('few_shot', 'dims', {2, 4}, 'dims {2, 4}: must be a list'),
  ):
    call, arguments = CALLS[name]
    with pytest.raises(ValueError, match=re.escape(line)):
      call(**{**arguments, argument: value})


def test_lists_and_numpy_numbers_are_taken():
  expected = metrics.top_k_accuracy(NEAR, np.arange(Q), 1)
  given = metrics.top_k_accuracy(NEAR.tolist(), [*range(Q)], np.uint8(1))
  assert given == expected
  assert nesting.validate(np.array([2, 4]), np.int64(4)) == (2, 4)
