"""Splits that are in the host's memory already, as resident batches."""

import jax
import numpy as np

from mrl_jax.data.batches.resident import ResidentBatches
from mrl_jax.data.batches.resident import Rows


def resident_batches(
  images_NHWC: np.ndarray,
  label_N: np.ndarray,
  batch_size: int,
  mesh: jax.sharding.Mesh,
) -> ResidentBatches:
  """Batches of these images, uint8, and labels, int32, with seed 0."""

  def load(rows: range, size: int) -> Rows:
    part = slice(rows.start, rows.stop)
    missing = (0, size - len(rows))
    return Rows(
      np.pad(images_NHWC[part], [missing, *[(0, 0)] * 3]),
      np.pad(label_N[part], missing),
      np.arange(size) < len(rows),
    )

  return ResidentBatches(load, len(label_N), batch_size, mesh=mesh, seed=0)
