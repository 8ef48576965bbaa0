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

  Args:
    model: the model. BatchNorm layers whose scale and bias are both frozen are
      put in evaluation mode.
    optimizer: holds state for the trainable parameters only.
    trainable: patterns of the parameters that train, see `trainable.matches`;
      empty: all parameters.

  Raises:
    ValueError: a pattern matches no parameter.
  """
  _freeze_norms(model, trainable_lib.parse(trainable))
  graphdef, params, batch_stats = nnx.split(model, nnx.Param, nnx.BatchStat)
  params = nnx.to_pure_dict(params)
  state = State(
    step=jnp.zeros((), jnp.int32),
    params=params,
    batch_stats=nnx.to_pure_dict(batch_stats),
    opt_state=optimizer.init(trainable_lib.split(params, trainable)[0]),
  )
  return graphdef, state


def _freeze_norms(model: nnx.Module, patterns: Sequence[str]) -> None:
  for path, module in nnx.iter_modules(model):
    if isinstance(module, nnx.BatchNorm) and not any(
      trainable_lib.matches((*path, name), patterns)
      for name in ('scale', 'bias')
    ):
      module.use_running_average = True
