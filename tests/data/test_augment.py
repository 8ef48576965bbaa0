import chex
import jax
from jax import numpy as jnp
import numpy as np

from mrl_jax.data.batches import augment
from mrl_jax.training import sharding

KEY = jax.random.key(0)


def test_normalize_by_hand():
  image = jnp.array([0, 51, 255], jnp.uint8).reshape(1, 1, 1, 3)
  y = augment.normalize(image, (0.5, 0.2, 0), (0.5, 0.1, 2))
  np.testing.assert_allclose(y.ravel(), [-1, 0, 0.5], atol=1e-6)


def test_random_flip_mirrors_about_half():
  x = jnp.arange(64 * 4 * 4 * 3).reshape(64, 4, 4, 3)
  y = augment.random_flip(KEY, x)
  flipped = (y == x[:, :, ::-1]).all((1, 2, 3))
  assert ((y == x).all((1, 2, 3)) | flipped).all()
  assert 16 < flipped.sum() < 48


def test_random_shift_moves_by_every_amount():
  # One bright pixel tells where the image went.
  x = jnp.zeros((200, 5, 5, 1), jnp.uint8).at[:, 2, 2].set(1)
  y = augment.random_shift(KEY, x, 1)
  chex.assert_equal_shape([x, y])
  places = np.argwhere(np.asarray(y)[..., 0])[:, 1:]
  assert {tuple(place) for place in places} == {
    (i, j) for i in (1, 2, 3) for j in (1, 2, 3)
  }
  chex.assert_trees_all_equal(augment.random_shift(KEY, x, 0), x)


def test_random_resized_crop_of_everything_is_a_resize():
  x = jax.random.uniform(KEY, (2, 16, 16, 3), maxval=255)
  y = augment.random_resized_crop(KEY, x, 8, (1, 1), (1, 1))
  expected = jax.image.resize(x, (2, 8, 8, 3), 'linear')
  chex.assert_trees_all_close(y, expected, atol=1e-3)


def test_random_resized_crop_stays_inside():
  # A ramp from 0 to 31 over the columns: values are where a pixel came from.
  x = jnp.broadcast_to(jnp.arange(32.0)[None, None, :, None], (100, 32, 32, 3))
  y = np.asarray(augment.random_resized_crop(KEY, x, 8, (0.1, 0.5)))
  assert y.min() >= 0 and y.max() <= 31
  widths = (y[:, 0, -1, 0] - y[:, 0, 0, 0]) * 8 / 7
  # Sides of sqrt(area * ratio): between sqrt(.1 * 3/4) and sqrt(.5 * 4/3).
  assert widths.min() > 0.9 * 32 * 0.27 and widths.max() < 1.1 * 32 * 0.82
  assert y[:, 0, 0, 0].std() > 3  # Not always the same place.


def test_the_same_on_eight_devices():
  mesh = sharding.make_mesh(8)
  x = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 3), np.uint8)

  @jax.jit
  def run(x):
    x = augment.random_shift(KEY, x, 2)
    return augment.random_flip(KEY, x)

  alone = run(x)
  spread = run(jax.device_put(x, sharding.over_data(mesh)))
  chex.assert_trees_all_equal(alone, jax.device_get(spread))
