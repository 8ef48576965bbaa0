"""The training state: what a checkpoint holds."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

from flax import nnx
import jax
from jax import numpy as jnp
import optax

from mrl_jax.training import trainable as trainable_lib

Arrays = Mapping[str, Any]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
  """The arrays that a checkpoint holds, as nested dicts.

  `step` counts the updates done so far. There is no random key: randomness is
  a function of the config's seed and `step`.
  """

  step: jax.Array
  params: Arrays
  batch_stats: Arrays
  opt_state: optax.OptState


def create(
  model: nnx.Module,
  optimizer: optax.GradientTransformation,
  *,
  trainable: Sequence[str] = (),
) -> tuple[nnx.GraphDef, State]:
  """Splits a new model into its graph definition and a State of step 0.

  `trainable` holds patterns of the parameters that train, see
  `trainable.matches`; the optimizer has state for these only. BatchNorm layers
  whose scale and bias are both frozen are put in evaluation mode. Raises
  ValueError if a pattern matches no parameter.
  """
  _freeze_norms(model, trainable_lib.parse(trainable))
  arrays = arrays_of(model)
  trained, _ = trainable_lib.split(arrays['params'], trainable)
  step, opt_state = jnp.zeros((), jnp.int32), optimizer.init(trained)
  graphdef, *_ = nnx.split(model, nnx.Param, nnx.BatchStat)
  return graphdef, State(step, **arrays, opt_state=opt_state)


def arrays_of(module: nnx.Module) -> dict[str, Any]:
  """The `params` and `batch_stats` of a module, as nested dicts."""
  kinds = {'params': nnx.Param, 'batch_stats': nnx.BatchStat}
  return {
    name: nnx.to_pure_dict(nnx.state(module, kind))
    for name, kind in kinds.items()
  }


def _freeze_norms(model: nnx.Module, patterns: Sequence[str]) -> None:
  for path, module in nnx.iter_modules(model):
    if isinstance(module, nnx.BatchNorm) and not any(
      trainable_lib.matches((*path, name), patterns)
      for name in ('scale', 'bias')
    ):
      module.use_running_average = True
