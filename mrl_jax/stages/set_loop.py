"""The training loop of runs that measure on sets of texts or of pairs."""

from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
from typing import Any

from mrl_jax.stages.train_loop import Loop
from mrl_jax.training.state import State


@dataclasses.dataclass(kw_only=True)
class SetLoop(Loop):
  """The training loop; it measures on sets in place of one split.

  Attributes:
    sets: the evaluation sets.
    measure: returns a set's metrics at widths, `<set>/<metric>@<width>`, by the
      arrays of a state.
    main_metrics: `<set>/<metric>` of those whose mean is a checkpoint's score.
  """

  sets: Sequence[Any]
  measure: Callable[[Any, State, tuple[int, ...]], Mapping[str, float]]
  main_metrics: Sequence[str]
  eval_step: Callable | None = None
  eval_batches: Iterable = ()

  def _measure(self, step: int) -> float:
    """Measures every set; returns the mean main metric of the last width."""
    dims, values = tuple(self.config.nesting_dims), {}
    # A signal ends the evaluation between two sets.
    for one in self.preemption.until(self.sets):
      values |= self.measure(one, self.state, dims)
    if not values:
      return 0.0
    self.writer.replace(step, values)
    for name in self.main_metrics:
      if f'{name}@{dims[0]}' in values:
        shown = ' '.join(f'@{m} {values[f"{name}@{m}"]:.2f}' for m in dims)
        epoch = step // self.steps_per_epoch
        self.progress.say(f'epoch {epoch}  {name} {shown}')
    self.progress.resume(step)
    found = [
      values.get(f'{name}@{dims[-1]}', 0.0) for name in self.main_metrics
    ]
    # A correlation may be negative, a score may not.
    return max(sum(found) / len(found), 0.0)
