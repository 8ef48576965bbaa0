"""Checkpoints: the state, the config and the score of a step, by Orbax.

`<step>/model` holds the parameters and BatchNorm statistics, `<step>/optimizer`
the step and the optimizer's state, `<step>/config` the config, `<step>/dataset`
the record of the training data, and `<step>/fingerprints` a checksum of each
array and text, because Orbax does not notice a flipped bit.
"""

from collections.abc import Iterator, Mapping
import contextlib
import os
import pathlib
import time
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from mrl_jax import terminal
from mrl_jax.training import checkpoint_faults as faults
from mrl_jax.training import saved_step
from mrl_jax.training import sharding
from mrl_jax.training.saved_step import SavedStep
from mrl_jax.training.state import State

_UNMEASURED = -1.0


class Checkpoints:
  """The checkpoints of a run, in `<directory>/<step>/`.

  Saving is asynchronous and atomic: a directory named by a step is whole. Use
  as a context manager, which waits at its end for the save in progress.
  """

  def __init__(self, directory: str | os.PathLike, *, keep: int | None = None):
    """Opens for reading or, with `keep`, for writing.

    `keep` is the number of latest checkpoints to keep, beside the one with the
    best score. Only one process at a time may write, as it removes what a
    killed one left. Raises ValueError, naming the directory, if a score cannot
    be read.
    """
    if keep is not None and keep < 1:
      raise ValueError(f'keep_checkpoints {keep}: must be at least 1')
    self._directory = os.path.abspath(directory)
    score = lambda metrics: metrics['score']
    options = {'create': False}
    if keep is not None:
      policies = [
        checkpoint_managers.LatestN(keep),
        checkpoint_managers.BestN(get_metric_fn=score, n=1),
      ]
      options = {
        'preservation_policy': checkpoint_managers.AnyPreservationPolicy(
          policies
        ),
        'cleanup_tmp_directories': True,
      }
    self._check_scores()
    self._manager = ocp.CheckpointManager(
      self._directory,
      options=ocp.CheckpointManagerOptions(best_fn=score, **options),
    )

  def __enter__(self) -> 'Checkpoints':
    return self

  def __exit__(self, error_type, *error) -> None:
    lost = error_type and issubclass(error_type, jax.errors.JaxRuntimeError)
    # After a peer is gone a save never ends, so it is not waited for.
    if not (lost and jax.process_count() > 1):
      with self._saving():
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
    dataset: Mapping[str, Any] | None = None,
  ) -> None:
    """Starts to save, after the previous save has finished.

    The state is saved under its step. Config and dataset, the record of the
    training data (None: unknown), are plain JSON types. The score is at least
    0, higher is better; None: not measured. Raises OSError if this save or the
    one before it fails.
    """
    model, optimizer = _split(state)
    step = int(state.step)
    arrays = {'model': model, 'optimizer': optimizer}
    # Orbax warns about a save without metrics.
    metrics = {'score': _UNMEASURED if score is None else score}
    texts = {'config': config}
    if dataset is not None:
      texts['dataset'] = dataset
    texts['fingerprints'] = {
      **saved_step.fingerprints(step, arrays | texts | {'metrics': metrics}),
      **saved_step.layouts(arrays),
    }
    with self._saving():
      self._manager.save(
        step,
        args=ocp.args.Composite(
          **{k: ocp.args.StandardSave(x) for k, x in arrays.items()},
          **{k: ocp.args.JsonSave(x) for k, x in texts.items()},
        ),
        metrics=metrics,
      )

  def is_scored(self, step: int) -> bool:
    """Whether the checkpoint has a score."""
    return self._saved(step).score() not in (None, _UNMEASURED)

  def set_score(self, step: int, score: float) -> None:
    """Adds the score to a checkpoint that was saved without one."""
    if not jax.process_index():
      self._saved(step).set_score(score)
    sharding.barrier('score is written')
    self._manager.reload()

  def wait(self) -> None:
    """Waits for the save in progress. Raises OSError if it fails."""
    with self._saving():
      self._manager.wait_until_finished()

  @contextlib.contextmanager
  def _saving(self) -> Iterator[None]:
    try:
      yield
    # Orbax and tensorstore raise many types for failures in the background.
    except Exception as error:
      line = ' '.join(str(error).split())[:300]
      raise OSError(
        f'a checkpoint could not be saved to {self._directory}; those before '
        f'it are whole ({line})'
      ) from error

  def restore(self, like: State, step: int) -> State:
    """Restores a state with the shapes and shardings of `like`.

    This and the methods below raise ValueError, naming the checkpoint, if it is
    damaged, holds other arrays than `like`, or cannot be opened.
    """
    model, optimizer = _split(like)
    restored = self._restore(step, {'model': model, 'optimizer': optimizer})
    return State(**restored['model'], **restored['optimizer'])

  def restore_model(self, like: Mapping[str, Any], step: int) -> dict[str, Any]:
    """Restores `params` and `batch_stats` alone, in the tree of `like`."""
    return self._restore(step, {'model': like})['model']

  def model_shapes(self, step: int) -> dict[str, Any]:
    """The abstract arrays to give `restore_model`, on the first device.

    The names are strings, as they were saved.
    """
    on_first = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    saved = self._saved(step)
    with saved.told_apart():
      tree = saved.metadata('model', saved.numbers(['model']))
    return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=on_first), tree
    )

  def _restore(self, step: int, like: Mapping[str, Any]) -> dict[str, Any]:
    """Restores the items in `like`; checks their layout and fingerprints."""
    saved = self._saved(step)
    with saved.told_apart():
      numbers = saved.numbers(like)
      there = {name: saved.metadata(name, numbers) for name in like}
    if line := faults.misfit(faults.describe(there), faults.describe(like)):
      raise ValueError(
        f'checkpoint {saved.folder} is of another model than this, and not '
        f'damaged: {line}'
      )
    shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, dict(like))
    args = {k: ocp.args.StandardRestore(x) for k, x in shapes.items()}
    with saved.told_apart():
      restored = self._manager.restore(step, args=ocp.args.Composite(**args))
      found = {name: restored[name] for name in like}
      if numbers is not None:
        saved.check(numbers, found)
    if numbers is None:
      terminal.say(
        f'checkpoint {saved.folder} was saved before checkpoints had '
        'fingerprints: whether its arrays are damaged cannot be checked'
      )
    return found

  def _check_scores(self) -> None:
    """Checks all scores, as Orbax would not say which of them is damaged."""
    for path in pathlib.Path(self._directory).glob('*'):
      if path.name.isdecimal():
        saved = self._saved(int(path.name))
        try:
          with saved.told_apart():
            saved.check_score()
        except ValueError:
          if not _is_deleted_soon(path):
            raise

  def _saved(self, step: int) -> SavedStep:
    return SavedStep(self._directory, step)


def _is_deleted_soon(folder: pathlib.Path) -> bool:
  """Whether a training is just now deleting this checkpoint."""
  for _ in range(5):
    if not folder.is_dir():
      return True
    time.sleep(0.1)
  return False


def _split(state: State) -> tuple[dict[str, Any], dict[str, Any]]:
  model = {'params': state.params, 'batch_stats': state.batch_stats}
  return model, {'step': state.step, 'opt_state': state.opt_state}
