"""Forked processes say why they cannot search, in place of waiting for ever."""

from collections.abc import Callable
import importlib.util
import os
import signal
import warnings

import numpy as np
import pytest

from mrl_jax import forks
from mrl_jax import retrieval
from mrl_jax.interop import encoder
from mrl_jax.retrieval import ann
from mrl_jax.retrieval import quantized

pytestmark = pytest.mark.skipif(
  not hasattr(os, 'fork'), reason='the system has no fork'
)


def forked(work: Callable[[], object]) -> str:
  """What `work` raises in a forked process; '' if it ends."""
  reading, writing = os.pipe()
  with warnings.catch_warnings():
    # JAX warns, as does Python, of what is tried here.
    warnings.simplefilter('ignore')
    child = os.fork()
  if not child:
    signal.alarm(20)  # Ends it where it would wait for ever.
    try:
      work()
    except ValueError as error:
      os.write(writing, str(error).encode())
    except BaseException as error:
      os.write(writing, repr(error).encode())
    os._exit(0)
  os.close(writing)
  with os.fdopen(reading) as file:
    text = file.read()
  assert os.waitpid(child, 0)[1] == 0
  return text


def test_a_search_in_a_forked_process_is_refused():
  rng = np.random.default_rng(0)
  rows_MD = rng.normal(size=(300, 64)).astype(np.float32)
  database = retrieval.prepare(rows_MD)
  expected = retrieval.search(rows_MD[:9], database, 3)
  signs = quantized.quantize(database, 'binary')
  works = [
    lambda: retrieval.search(rows_MD[:9], database, 3),
    lambda: retrieval.prepare(rows_MD),
    lambda: encoder.Encoder._embed(None, np.zeros(1)),
    lambda: signs.search(rows_MD[:9], 3, rerank_dim=64, shortlist=9),
  ]
  if importlib.util.find_spec('faiss'):
    index = ann.build(database, 'ivf', 8, num_cells=4)
    works += [
      lambda: index.search(rows_MD[:9], 3),
      lambda: ann.build(database, 'ivf', 8, num_cells=4),
      lambda: signs.search(rows_MD[:9], 3),
    ]
  for work in works:
    text = forked(work)
    assert 'was forked after JAX had begun' in text and '\n' not in text
    assert "start it by 'spawn'" in text
  # The parent goes on.
  found = retrieval.search(rows_MD[:9], database, 3)
  np.testing.assert_array_equal(found.ids_QK, expected.ids_QK)


def test_a_process_that_forked_before_jax_began_may_go_on(monkeypatch):
  monkeypatch.setattr(
    forks.xla_bridge, 'backends_are_initialized', lambda: False
  )
  assert forked(forks.check) == ''
