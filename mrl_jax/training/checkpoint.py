"""Checkpoints: the state, the config and the score of a step, by Orbax.

`<step>/model` holds the parameters and BatchNorm statistics, `<step>/optimizer`
the step and the optimizer's state, `<step>/config` the config, `<step>/dataset`
what the run was trained on, and `<step>/fingerprints` a number for each of the
arrays and of the two others, as Orbax does not notice a flipped bit.
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

  Saving is asynchronous, and atomic: a directory named by its step is whole.
  Use as a context manager: leaving it waits for what is being saved.
  """

  def __init__(self, directory: str | os.PathLike, *, keep: int | None = None):
    """Opens to read; with `keep`, to write.

    `keep`: how many of the last to keep, beside the one of best score. One
    process at a time may write: it clears away what a killed one left behind.
    Raises ValueError, naming the directory, if a score cannot be read.
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
    # A save cannot end without a peer that is gone, and would be waited for.
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
    """Begins to save; waits first for the save before this one.

    Args:
      state: what is saved, under its step.
      config: plain JSON types.
      score: what the best checkpoint has most of, at least 0; None where it
        was not measured.
      dataset: what the run was trained on, plain JSON types; None: unknown.

    Raises:
      OSError: this save or the one before it fails.
    """
    model, optimizer = _split(state)
    step = int(state.step)
    arrays = {'model': model, 'optimizer': optimizer}
    # Orbax warns of a save without metrics.
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
    """Whether the checkpoint was saved with a score, or given one."""
    return self._saved(step).score() not in (None, _UNMEASURED)

  def set_score(self, step: int, score: float) -> None:
    """Gives a checkpoint a score that was saved without one."""
    if not jax.process_index():
      self._saved(step).set_score(score)
    sharding.barrier('score is written')
    self._manager.reload()

  def wait(self) -> None:
    """Returns when what is being saved is whole. Raises OSError if not."""
    with self._saving():
      self._manager.wait_until_finished()

  @contextlib.contextmanager
  def _saving(self) -> Iterator[None]:
    try:
      yield
    # Orbax and tensorstore raise many types of what fails in the background.
    except Exception as error:
      line = ' '.join(str(error).split())[:300]
      raise OSError(
        f'a checkpoint could not be saved to {self._directory}; those before '
        f'it are whole ({line})'
      ) from error

  def restore(self, like: State, step: int) -> State:
    """The state, in the shapes and shardings of `like`.

    Raises ValueError, naming the checkpoint, if it is damaged, if its arrays
    are not those of `like`, or if it cannot be opened; so do the four below.
    """
    model, optimizer = _split(like)
    restored = self._restore(step, {'model': model, 'optimizer': optimizer})
    return State(**restored['model'], **restored['optimizer'])

  def restore_model(self, like: Mapping[str, Any], step: int) -> dict[str, Any]:
    """The `params` and `batch_stats` alone, as `like` holds them."""
    return self._restore(step, {'model': like})['model']

  def model_shapes(self, step: int) -> dict[str, Any]:
    """What `restore_model` takes, as it was saved; all names are strings.

    On the first device, whatever it was saved from.
    """
    on_first = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    saved = self._saved(step)
    with saved.told_apart():
      tree = saved.metadata('model', saved.numbers(['model']))
    return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=on_first), tree
    )

  def read_config(self, step: int) -> dict[str, Any]:
    """The config a checkpoint was written with."""
    saved = self._saved(step)
    with saved.told_apart():
      return saved.read_item('config')

  def read_dataset(self, step: int) -> dict[str, Any] | None:
    """What the run was trained on; None where it was not recorded."""
    saved = self._saved(step)
    with saved.told_apart():
      return saved.read_dataset()

  def _restore(self, step: int, like: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays of some items, which are those of `like`, and as saved."""
    saved = self._saved(step)
    with saved.told_apart():
      numbers = saved.numbers(like)
      there = {name: saved.metadata(name, numbers) for name in like}
    if line := faults.misfit(faults.describe(there), faults.describe(like)):
      raise ValueError(
        f'checkpoint {saved.folder} is of another model than this, and not '
        f'damaged: {line}'
      )
    args = {name: _restore_like(tree) for name, tree in like.items()}
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
    """Orbax reads them all to begin with, and does not say which is damaged."""
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
  """Whether a run that trains is deleting an old checkpoint just now."""
  for _ in range(5):
    if not folder.is_dir():
      return True
    time.sleep(0.1)
  return False


def _split(state: State) -> tuple[dict[str, Any], dict[str, Any]]:
  model = {'params': state.params, 'batch_stats': state.batch_stats}
  return model, {'step': state.step, 'opt_state': state.opt_state}


def _restore_like(tree: Any) -> ocp.args.StandardRestore:
  return ocp.args.StandardRestore(
    jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)
  )
