"""A trainable transform of vectors from a frozen encoder."""

from flax import nnx
import jax
from jax import numpy as jnp
import numpy as np

from mrl_jax.models import initializers


class Adaptor(nnx.Module):
  """Adds a small residual branch to vectors, whose width stays the same.

  Computes `x + relu(x @ W1 + b1) @ W2 + b2`, where x are the vectors, centred
  and divided by one number so that their mean square is 1. W2 starts at zero,
  so that at first the output is x. Training moves what separates the classes to
  the leading dims; the trailing dims keep the vectors' own numbers.

  Parameters are float32; `dtype` is the dtype of the branch's products.
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
    # Statistics are not trained, but checkpoints keep them.
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
    """Fits mean and scale to rows [N, D]; ValueError if all are the same."""
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
    mean_1D = self.mean[...][None]
    x_ND = (row_ND.astype(jnp.float32) - mean_1D) / self.scale[...]
    branch_ND = self.up(nnx.relu(self.down(x_ND)))
    return x_ND + branch_ND.astype(jnp.float32)
