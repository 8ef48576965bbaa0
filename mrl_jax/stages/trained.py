"""A trained model, restored from a workdir's checkpoint."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from flax import nnx
import jax
from ml_collections import ConfigDict
import numpy as np

from mrl_jax import models
from mrl_jax import terminal
from mrl_jax.stages import build
from mrl_jax.training import inference
from mrl_jax.training import sharding
from mrl_jax.training.checkpoint import Checkpoints
from mrl_jax.training.state import arrays_of
from mrl_jax.workdir import Checkpoint
from mrl_jax.workdir import Workdir


class Trained(NamedTuple):
  """A model's graph definition, its arrays on a mesh, and their step."""

  graphdef: nnx.GraphDef
  params: Mapping[str, Any]
  batch_stats: Mapping[str, Any]
  step: int
  mesh: jax.sharding.Mesh

  @property
  def model(self) -> models.Classifier:
    return nnx.merge(self.graphdef, self.params, self.batch_stats)

  def apply(self, function: Callable, *arrays: np.ndarray) -> Any:
    """Returns `function(model, *arrays)` as numpy, in evaluation mode."""

    @jax.jit
    def run(params, batch_stats, *arrays):
      model = inference.evaluation_model(self.graphdef, params, batch_stats)
      return function(model, *arrays)

    return jax.device_get(run(self.params, self.batch_stats, *arrays))


def chosen(config: ConfigDict, workdir: Workdir) -> Checkpoint:
  """The checkpoint that `config.checkpoint` names; step 0 if there is none."""
  step = workdir.latest_step()
  if step and config.checkpoint == 'best':
    with Checkpoints(workdir.checkpoints) as checkpoints:
      step = checkpoints.best_step or checkpoints.latest_step
  return workdir.checkpoint(step)


def restore(
  config: ConfigDict,
  workdir: Workdir,
  checkpoint: Checkpoint,
  num_classes: int,
  *,
  mesh: jax.sharding.Mesh | None = None,
) -> Trained:
  """Restores the model of a checkpoint, on every device of the mesh.

  `num_classes` is used where the config leaves it open; a mesh of None means
  the devices that the config names. Raises ValueError if the checkpoint is not
  there any more.
  """
  make = lambda: build.model(config, num_classes)
  return restore_made(config, workdir, checkpoint, make, mesh=mesh)


def restore_made(
  config: ConfigDict,
  workdir: Workdir,
  checkpoint: Checkpoint,
  make: Callable[[], models.Classifier],
  *,
  mesh: jax.sharding.Mesh | None = None,
) -> Trained:
  """Restores a checkpoint into the model that `make` makes; see `restore`."""
  if mesh is None:
    mesh = sharding.make_mesh(config.mesh.data * config.mesh.model)
  step = checkpoint.step
  if workdir.checkpoint(step) != checkpoint:
    raise ValueError(
      f'{workdir.checkpoints / str(step)} was to be read, which a training has '
      'removed meanwhile: start again'
    )
  model = nnx.eval_shape(make)
  graphdef, *_ = nnx.split(model, nnx.Param, nnx.BatchStat)
  everywhere = sharding.replicated(mesh)
  like = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere),
    arrays_of(model),
  )
  with Checkpoints(workdir.checkpoints) as checkpoints:
    restored = checkpoints.restore_model(like, step)
  if 'train' not in workdir.marks():
    terminal.say(f'step {step} is of a training not finished yet')
  return Trained(graphdef, **restored, step=step, mesh=mesh)
