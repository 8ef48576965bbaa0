"""A transform of vectors that someone else's encoder has computed."""

from flax import nnx
import jax
from jax import numpy as jnp
import numpy as np

from mrl_jax.models import initializers


class Adaptor(nnx.Module):
  """Vectors to embeddings of the same width: themselves, and a small branch.

  `x + relu(x @ W1 + b1) @ W2 + b2` of the centred vectors, scaled as a whole
  to a mean square of 1. W2 starts at zero, so that the transform starts as the
  identity but for the centring. The branch moves what the classes differ in to
  the leading dims; the vectors' own numbers stay in the trailing ones.

  Parameters are float32; `dtype` is that of the branch's products.
  """

  def __init__(
    self,
    width: int,
    hidden: int,
    *,
    dtype: jnp.dtype = jnp.float32,
    rngs: nnx.Rngs,
  ):
    self.num_features = width
    # Not trained, but kept with the parameters in checkpoints.
    self.mean = nnx.BatchStat(jnp.zeros(width))
    self.scale = nnx.BatchStat(jnp.ones(()))
    self.down = nnx.Linear(
      width,
      hidden,
      dtype=dtype,
      kernel_init=initializers.kaiming_normal_in,
      rngs=rngs,
    )
    self.up = nnx.Linear(
      hidden,
      width,
      dtype=dtype,
      kernel_init=nnx.initializers.zeros_init(),
      rngs=rngs,
    )

  def fit(self, row_ND: np.ndarray) -> None:
    """Takes the mean and the scale of these rows, float32 [N, D].

    Raises ValueError if the rows are all the same.
    """
    mean_D = row_ND.mean(0, dtype=np.float64)
    scale = np.sqrt(np.square(row_ND - mean_D).mean())
    if not scale > 0:
      raise ValueError(f'{len(row_ND)} vectors to train on are all the same')
    self.mean[...] = jnp.asarray(mean_D, jnp.float32)
    self.scale[...] = jnp.asarray(scale, jnp.float32)

  def __call__(
    self, row_ND: jax.Array, *, key: jax.Array | None = None
  ) -> jax.Array:
    """Float vectors [N, D] to float32 embeddings [N, D]; nothing is random."""
    del key
    mean_1D = self.mean[...][None]
    x_ND = (row_ND.astype(jnp.float32) - mean_1D) / self.scale[...]
    branch_ND = self.up(nnx.relu(self.down(x_ND)))
    return x_ND + branch_ND.astype(jnp.float32)
