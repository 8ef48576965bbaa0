"""Checkpoints: the state, the config and the metrics of a step, by Orbax."""

from collections.abc import Mapping
import os
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from mrl_jax.state import State


class Checkpoints:
  """The checkpoints of a run, in `<directory>/<step>/`.

  Saving is asynchronous, and atomic: a directory named by its step is whole.
  Use as a context manager: leaving it waits for what is being saved.
  """

  def __init__(self, directory: str | os.PathLike, *, keep: int = 1):
    """`keep`: how many of the last to keep, beside the one of best `score`."""
    if keep < 1:
      raise ValueError(f'keep_checkpoints {keep}: must be at least 1')
    score = lambda metrics: metrics['score']
    policies = [
      checkpoint_managers.LatestN(keep),
      checkpoint_managers.BestN(
        get_metric_fn=score, n=1, keep_checkpoints_without_metrics=False
      ),
    ]
    self._directory = os.path.abspath(directory)
    self._manager = ocp.CheckpointManager(
      self._directory,
      options=ocp.CheckpointManagerOptions(
        best_fn=score,
        preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
        # What a killed run was in the middle of writing.
        cleanup_tmp_directories=True,
      ),
    )

  def __enter__(self) -> 'Checkpoints':
    return self

  def __exit__(self, *error) -> None:
    self._manager.close()

  @property
  def latest_step(self) -> int | None:
    return self._manager.latest_step()

  @property
  def best_step(self) -> int | None:
    return self._manager.best_step()

  def save(
    self,
    state: State,
    config: Mapping[str, Any],
    score: float | None = None,
  ) -> None:
    """Begins to save; waits first for the save before this one.

    `score`: what the best checkpoint has most of; None where it was not
    measured.
    """
    self._manager.save(
      int(state.step),
      args=ocp.args.Composite(
        state=ocp.args.StandardSave(state), config=ocp.args.JsonSave(config)
      ),
      metrics=None if score is None else {'score': score},
    )

  def restore(self, like: State, step: int) -> tuple[State, dict[str, Any]]:
    """The state, in the shapes and shardings of `like`, and the config.

    Raises ValueError, naming the directory, if it cannot be read.
    """
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    args = ocp.args.Composite(
      state=ocp.args.StandardRestore(abstract), config=ocp.args.JsonRestore()
    )
    try:
      restored = self._manager.restore(step, args=args)
    # Orbax and tensorstore raise many types on damaged files.
    except Exception as error:
      line = str(error).strip().splitlines()[0] if str(error).strip() else ''
      raise ValueError(
        f'checkpoint {os.path.join(self._directory, str(step))} cannot be read '
        f'({type(error).__name__}: {line[:200]}); without that directory the '
        'run goes on from the one before it'
      ) from error
    return restored.state, restored.config

  def read_config(self, step: int) -> dict[str, Any]:
    """The config a checkpoint was written with."""
    args = ocp.args.Composite(config=ocp.args.JsonRestore())
    return self._manager.restore(step, args=args).config
