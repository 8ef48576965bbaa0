"""Learning-rate schedules per iteration, and torch's SGD and AdamW."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import numpy as jnp
import optax

from mrl_jax import checks

OPTIMIZERS = ('sgd', 'adamw')
DECAY_MASKS = ('all', 'no_norm_no_bias', 'reference')
SCHEDULES = ('cyclic', 'cosine', 'step', 'constant')


def _rate(name: str, value: Any) -> Any:
  """Checks a learning rate; a schedule is returned as it is."""
  return value if callable(value) else checks.number(0)(name, value)


def _numbers(name: str, value: Any) -> tuple[float, ...]:
  return tuple(checks.number(0)(name, x) for x in checks.listed(name, value))


def _betas(name: str, value: Any) -> tuple[float, ...]:
  betas = _numbers(name, value)
  if len(betas) != 2 or max(betas) >= 1:
    raise ValueError(f'{name} {betas}: must be two numbers in [0, 1)')
  return betas


@checks.takes(
  name=checks.choice(*SCHEDULES),
  learning_rate=checks.number(0),
  steps_per_epoch=checks.whole(),
  num_epochs=checks.whole(),
  peak_epoch=checks.number(0),
  step_epochs=_numbers,
  step_factor=checks.number(0),
)
def schedule(
  name: str,
  learning_rate: float,
  *,
  steps_per_epoch: int,
  num_epochs: int,
  peak_epoch: float = 0,
  step_epochs: Sequence[float] = (),
  step_factor: float = 0.1,
) -> optax.Schedule:
  """Returns the learning rate as a function of the updates done so far.

  `cyclic` is the triangle of the paper's recipe (appendix C): from 1e-4 of the
  peak at step 0 up to the peak at `peak_epoch`, down to 0 at the end; `cosine`
  warms up linearly from 0 until `peak_epoch`; `step` multiplies by
  `step_factor` at each of `step_epochs`. Raises ValueError for another name.
  """
  total = num_epochs * steps_per_epoch
  peak = round(peak_epoch * steps_per_epoch)
  if name in ('cyclic', 'cosine') and peak >= total:
    raise ValueError(
      f'peak_epoch {peak_epoch}: must be below num_epochs={num_epochs}'
    )
  if name == 'step' and list(step_epochs) != sorted(set(step_epochs)):
    raise ValueError(f'step_epochs {step_epochs}: must be increasing numbers')
  if name == 'constant':
    return optax.constant_schedule(learning_rate)
  if name == 'step':
    return optax.piecewise_constant_schedule(
      learning_rate,
      {
        round(epoch * steps_per_epoch): step_factor
        for epoch in step_epochs
        if epoch < num_epochs  # Later steps are never reached.
      },
    )
  if name == 'cosine':
    return optax.warmup_cosine_decay_schedule(0, learning_rate, peak, total)
  knots = jnp.array([0.0, peak, total])
  values = jnp.array([1e-4 * learning_rate, learning_rate, 0.0])
  if not peak:
    knots, values = knots[1:], values[1:]
  return lambda step: jnp.interp(step, knots, values)


@checks.takes(name=checks.choice(*DECAY_MASKS))
def decay_mask(name: str) -> Callable[[optax.Params], optax.Params]:
  """Returns a function that marks the parameters to which weight decay applies.

  `all`: every parameter. `no_norm_no_bias`: kernels only. `reference`, as in
  the paper's released code: all but those of modules named `bn…`, so that the
  BatchNorm of each downsampling branch and the head's bias do decay.
  """

  def decays(path: tuple, _: jax.Array) -> bool:
    names = jax.tree_util.keystr(path, simple=True, separator='.').split('.')
    if name == 'no_norm_no_bias':
      return 'kernel' in names
    return name == 'all' or not any(part.startswith('bn') for part in names)

  return lambda params: jax.tree_util.tree_map_with_path(decays, params)


@checks.takes(
  learning_rate=_rate,
  momentum=checks.number(0, 1),
  weight_decay=checks.number(0),
)
def sgd(
  learning_rate: optax.ScalarOrSchedule,
  *,
  momentum: float = 0.0,
  weight_decay: float = 0.0,
  mask: str = 'all',
) -> optax.GradientTransformation:
  """SGD as in torch.optim: weight decay is added before the momentum."""
  return optax.chain(
    optax.add_decayed_weights(weight_decay, mask=decay_mask(mask)),
    optax.trace(decay=momentum),
    optax.scale_by_learning_rate(learning_rate),
  )


@checks.takes(learning_rate=_rate, betas=_betas, weight_decay=checks.number(0))
def adamw(
  learning_rate: optax.ScalarOrSchedule,
  *,
  betas: Sequence[float] = (0.9, 0.999),
  weight_decay: float = 0.0,
  mask: str = 'all',
) -> optax.GradientTransformation:
  """AdamW as in torch.optim: decay is multiplied by the learning rate as well.

  It does not depend on the scale of the loss, so the sum over nesting dims
  needs the same learning rate as a single head.
  """
  return optax.adamw(
    learning_rate,
    *betas,
    eps=1e-8,
    weight_decay=weight_decay,
    mask=decay_mask(mask),
  )
