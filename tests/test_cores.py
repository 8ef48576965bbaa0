import os

import numpy as np
import pytest

from mrl_jax import cores
from mrl_jax import retrieval


@pytest.mark.parametrize('known, expected', [(3, 3), (None, 1)])
def test_a_system_that_does_not_tell_its_affinity(monkeypatch, known, expected):
  """As macOS."""
  monkeypatch.delattr(os, 'sched_getaffinity', raising=False)
  monkeypatch.setattr(os, 'cpu_count', lambda: known)
  assert cores.count() == expected
  rows_MD = np.eye(4, dtype=np.float32)
  found = retrieval.search(rows_MD, rows_MD, 1)
  np.testing.assert_array_equal(found.ids_QK[:, 0], np.arange(4))


def test_cores_that_are_not_ours_do_not_count(monkeypatch):
  monkeypatch.setattr(os, 'sched_getaffinity', lambda _: {1, 5}, raising=False)
  monkeypatch.setattr(os, 'cpu_count', lambda: 8)
  assert cores.count() == 2
