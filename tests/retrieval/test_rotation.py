"""A rotation beyond the trained widths changes no score, and bad ones fail."""

import numpy as np
import pytest

from mrl_jax import retrieval
from mrl_jax.retrieval import quantized
from mrl_jax.retrieval import rotation as rotation_lib

START, WIDTH = 32, 160


@pytest.fixture(scope='module')
def arrays():
  """Queries, rows of which some are equal, and a rotation of their tails.

  Numbers beyond START decay, but a random rotation hides that.
  """
  random = np.random.default_rng(0)
  hidden_TT = np.linalg.qr(random.normal(size=(128, 128)))[0]
  scale_D = 1 / np.arange(1, WIDTH + 1)
  row_ND = random.normal(size=(1040, WIDTH)) * scale_D
  row_ND[:, START:] = row_ND[:, START:] @ hidden_TT
  row_ND[500:600] = row_ND[40:140]
  row_ND = row_ND.astype(np.float32)
  return row_ND[:40], row_ND[40:], rotation_lib.fit(row_ND[40:], START)


@pytest.mark.parametrize('metric', ['cosine', 'dot'])
@pytest.mark.parametrize('queries', [1, 40])
def test_searches_find_the_same_rows(arrays, tmp_path, metric, queries):
  query_QD, row_MD, rotation = arrays
  rotation_lib.save(rotation, tmp_path / 'r.npz')
  loaded = rotation_lib.load(tmp_path / 'r.npz')
  before = row_MD.copy()
  plain = retrieval.prepare(row_MD, (8, 32, 160))
  rotated = retrieval.prepare(row_MD, (8, 32, 160), rotation=loaded)
  np.testing.assert_array_equal(row_MD, before)
  for dim in (8, START, WIDTH):
    expected = retrieval.search(
      query_QD[:queries], plain, 9, dim=dim, metric=metric
    )
    found = retrieval.search(
      query_QD[:queries], rotated, 9, dim=dim, metric=metric
    )
    np.testing.assert_array_equal(found.ids_QK, expected.ids_QK)
    np.testing.assert_allclose(found.scores_QK, expected.scores_QK, atol=1e-5)
    if dim <= START:
      np.testing.assert_array_equal(found.scores_QK, expected.scores_QK)
  adaptive = {'shortlist_dim': 16, 'rerank_dim': WIDTH, 'shortlist': 50}
  expected, found = (
    retrieval.adaptive(query_QD, x, 5, **adaptive) for x in (plain, rotated)
  )
  np.testing.assert_array_equal(found.ids_QK, expected.ids_QK)


def test_it_sorts_what_was_hidden(arrays):
  """The first dims of the tail hold more than an equal share again."""
  _, row_MD, rotation = arrays
  shares = [
    (x[:, START : START + 16] ** 2).sum() / (x[:, START:] ** 2).sum()
    for x in (row_MD, rotation(row_MD))
  ]
  assert shares[0] < 0.2
  assert shares[1] > 0.35


@pytest.mark.parametrize(
  'start, matrix, match',
  [
    (4, np.ones((3, 3)), 'not orthogonal'),
    (4, np.eye(3) * 1.001, 'not orthogonal'),
    (4, np.full((3, 3), np.nan), 'not orthogonal'),
    (4, np.eye(3)[:2], r'shape \(2, 3\): must be \[T, T\]'),
    (-1, np.eye(3), 'start'),
  ],
)
def test_files_that_are_no_rotation(tmp_path, start, matrix, match):
  np.savez(tmp_path / 'r.npz', start=start, matrix=matrix)
  with pytest.raises(ValueError, match=match) as error:
    rotation_lib.load(tmp_path / 'r.npz')
  assert 'r.npz' in str(error.value)
  assert '\n' not in str(error.value)


def test_other_files(tmp_path):
  np.savez(tmp_path / 'other.npz', start=2)
  (tmp_path / 'text.npz').write_text('none')
  (tmp_path / 'zip.npz').write_bytes(b'PK\x03\x04 none')
  for name in ('other', 'text', 'zip'):
    with pytest.raises(ValueError, match=f'{name}.npz holds no rotation'):
      rotation_lib.load(tmp_path / f'{name}.npz')


def test_what_does_not_fit(arrays):
  query_QD, row_MD, rotation = arrays
  database = retrieval.prepare(row_MD, rotation=rotation)
  for dim in (START + 1, WIDTH - 1):
    with pytest.raises(ValueError, match=f'width {dim} of rotated rows'):
      retrieval.search(query_QD, database, 3, dim=dim)
    with pytest.raises(ValueError, match=f'width {dim} of rotated rows'):
      retrieval.prepare(row_MD, (8, dim), rotation=rotation)
  with pytest.raises(ValueError, match=r'rotation of width 160: .* rows, 100'):
    retrieval.prepare(row_MD[:, :100], rotation=rotation)
  with pytest.raises(ValueError, match='database with a rotation'):
    quantized.quantize(database, 'int8', 8)
  for start in (-1, WIDTH):
    with pytest.raises(ValueError, match=rf'start {start}.* must be \[M, D\]'):
      rotation_lib.fit(row_MD, start)
