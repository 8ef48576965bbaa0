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
from mrl_jax.workdir import Checkpoint
from mrl_jax.workdir import Workdir


class Trained(NamedTuple):
  """A model's graph definition, its arrays on a mesh, and their step."""

  graphdef: nnx.GraphDef
  params: Mapping[str, Any]
  batch_stats: Mapping[str, Any]
  step: int

  @property
  def model(self) -> models.Classifier:
    return nnx.merge(self.graphdef, self.params, self.batch_stats)

  def apply(self, function: Callable, *arrays: np.ndarray) -> Any:
    """Returns `function(model, *arrays)`, jitted, as numpy arrays.

    The model is in evaluation mode.
    """

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
  mesh: jax.sharding.Mesh,
  num_classes: int,
  *,
  needed_by: str,
  checkpoint: Checkpoint | None = None,
) -> Trained:
  """Restores the model of a checkpoint, on every device of the mesh.

  Args:
    config: the config of the run.
    workdir: its workdir.
    mesh: the devices.
    num_classes: the number of classes, where the config leaves it open.
    needed_by: the stage, for messages.
    checkpoint: the checkpoint to read; None: the one that the config names.

  Raises:
    ValueError: there is none, or it is not there any more.
  """
  if checkpoint is None:
    checkpoint = chosen(config, workdir)
  step = checkpoint.step
  if step and workdir.checkpoint(step) != checkpoint:
    raise ValueError(
      f'{needed_by} was to read {workdir.checkpoints / str(step)}, which a '
      'training has removed meanwhile: start again'
    )
  if not step:
    raise ValueError(
      f'{needed_by} reads a checkpoint in {workdir.checkpoints}, where there '
      'is none: run --mode=train first'
    )
  graphdef, params, batch_stats = nnx.split(
    nnx.eval_shape(lambda: build.model(config, num_classes)),
    nnx.Param,
    nnx.BatchStat,
  )
  like = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=sharding.replicated(mesh)
    ),
    {
      'params': nnx.to_pure_dict(params),
      'batch_stats': nnx.to_pure_dict(batch_stats),
    },
  )
  with Checkpoints(workdir.checkpoints) as checkpoints:
    restored = checkpoints.restore_model(like, step)
  if 'train' not in workdir.marks():
    terminal.say(f'{needed_by}: of step {step} of a training not finished yet')
  return Trained(graphdef, **restored, step=step)
