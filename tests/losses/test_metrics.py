from jax import numpy as jnp
import numpy as np

from mrl_jax.losses import metrics

# One granularity, four examples, three classes.
LOGITS = jnp.array([[[3.0, 2, 1], [3, 2, 1], [1, 1, 1], [jnp.nan, 0, 1]]])


def test_label_rank_by_hand():
  rank_GN = metrics.label_rank(LOGITS, jnp.array([0, 2, 1, 1]))
  # All tied: class 0 comes before 1, class 2 after. NaN: above every class.
  np.testing.assert_array_equal(rank_GN[:, :3], [[0, 2, 1]])
  assert metrics.label_rank(LOGITS, jnp.array([0, 0, 0, 0]))[0, 3] >= 3


def test_label_rank_equals_a_sort():
  rng = np.random.default_rng(0)
  logits_GNC = rng.integers(0, 4, (2, 50, 9)).astype(np.float32)  # many ties
  label_N = rng.integers(0, 9, 50)
  order = np.argsort(-logits_GNC, axis=-1, kind='stable')
  expected = (order == label_N[None, :, None]).argmax(-1)
  rank_GN = metrics.label_rank(jnp.asarray(logits_GNC), jnp.asarray(label_N))
  np.testing.assert_array_equal(rank_GN, expected)


def test_masked_sums_leave_out_the_padding():
  sums = metrics.masked_sums(
    jnp.array([[1.0, 2.0, jnp.nan]]),
    jnp.array([[0, 4, 0]]),
    jnp.array([True, True, False]),
  )
  assert sums['count'] == 2
  np.testing.assert_array_equal(sums['loss'], [3])
  np.testing.assert_array_equal(sums['top1'], [1])
  np.testing.assert_array_equal(sums['top5'], [2])
