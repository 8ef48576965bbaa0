"""Checkpoints: the state, the config and the score of a step, by Orbax.

`<step>/model` holds the parameters and BatchNorm statistics, `<step>/optimizer`
the step and the optimizer's state, `<step>/config` the config, and
`<step>/fingerprints` a number for each array and for the config, as Orbax does
not notice a flipped bit.
"""

from collections.abc import Iterator, Mapping
import contextlib
import json
import os
import pathlib
from typing import Any
import zlib

from etils import epath
import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from mrl_jax import files
from mrl_jax import fingerprint
from mrl_jax import sharding
from mrl_jax.state import State

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
  ) -> None:
    """Begins to save; waits first for the save before this one.

    Raises OSError if either fails.

    `score`: what the best checkpoint has most of, at least 0; None where it was
    not measured.
    """
    model, optimizer = _split(state)
    step = int(state.step)
    fingerprints = _fingerprints(
      step, {'model': model, 'optimizer': optimizer, 'config': config}
    )
    with self._saving():
      self._manager.save(
        step,
        args=ocp.args.Composite(
          model=ocp.args.StandardSave(model),
          optimizer=ocp.args.StandardSave(optimizer),
          config=ocp.args.JsonSave(config),
          fingerprints=ocp.args.JsonSave(fingerprints),
        ),
        # Orbax warns of a save without metrics.
        metrics={'score': _UNMEASURED if score is None else score},
      )

  def is_scored(self, step: int) -> bool:
    """Whether the checkpoint was saved with a score, or given one."""
    path = pathlib.Path(self._path(step, 'metrics', 'metrics'))
    score = files.read_json(path, missing={}).get('score', _UNMEASURED)
    return score != _UNMEASURED

  def set_score(self, step: int, score: float) -> None:
    """Gives a checkpoint a score that was saved without one."""
    if not jax.process_index():
      path = pathlib.Path(self._path(step, 'metrics', 'metrics'))
      files.write_json(path, {'score': score})
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

    Raises ValueError, naming the directory, if it cannot be read or is not what
    was saved; so do the three below.
    """
    model, optimizer = _split(like)
    restored = self._restore(
      step, model=_restore_like(model), optimizer=_restore_like(optimizer)
    )
    return State(**restored.model, **restored.optimizer)

  def restore_model(self, like: Mapping[str, Any], step: int) -> dict[str, Any]:
    """The `params` and `batch_stats` alone, as `like` holds them."""
    return self._restore(step, model=_restore_like(like)).model

  def model_shapes(self, step: int) -> dict[str, Any]:
    """What `restore_model` takes, as it was saved; all names are strings.

    On the first device, whatever it was saved from.
    """
    path = epath.Path(self._path(step, 'model'))
    on_first = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    with self._told_in_one_line(step):
      metadata = ocp.StandardCheckpointHandler().metadata(path)
    return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=on_first),
      metadata.tree,
    )

  def read_config(self, step: int) -> dict[str, Any]:
    """The config a checkpoint was written with."""
    return self._restore(step, config=ocp.args.JsonRestore()).config

  def _restore(self, step: int, **items: Any) -> ocp.args.Composite:
    # Checkpoints had none before 2026-11-25.
    if os.path.isdir(self._path(step, 'fingerprints')):
      items['fingerprints'] = ocp.args.JsonRestore()
    with self._told_in_one_line(step):
      restored = self._manager.restore(step, args=ocp.args.Composite(**items))
    found = {name: restored[name] for name in items}
    if 'fingerprints' in found:
      self._check(step, found.pop('fingerprints'), found)
    return restored

  def _check(
    self, step: int, saved: Mapping[str, int], items: Mapping[str, Any]
  ) -> None:
    """Raises ValueError, in all processes alike, if a fingerprint differs."""
    found = _fingerprints(step, items)
    differing = [name for name in found if found[name] != saved.get(name)]
    if differing := sharding.union(differing):
      more = f' and {len(differing) - 1} more' if differing[1:] else ''
      line = f'not as saved: {differing[0]}{more}'
      raise self._refusal(step, 'is damaged', line)

  @contextlib.contextmanager
  def _told_in_one_line(self, step: int) -> Iterator[None]:
    try:
      yield
    # Orbax and tensorstore raise many types on damaged files.
    except Exception as error:
      line = ' '.join(str(error).split())[:200]
      line = f'{type(error).__name__}: {line}'
      raise self._refusal(step, 'cannot be read', line) from error

  def _check_scores(self) -> None:
    """Orbax reads them all to begin with, and does not say which is damaged."""
    for path in pathlib.Path(self._directory).glob('*/metrics/metrics'):
      if (name := path.parts[-3]).isdecimal():
        # A run that trains may delete it meanwhile.
        with (
          self._told_in_one_line(int(name)),
          contextlib.suppress(FileNotFoundError),
        ):
          float(json.loads(path.read_text())['score'])

  def _path(self, step: int, *parts: str) -> str:
    return os.path.join(self._directory, str(step), *parts)

  def _refusal(self, step: int, how: str, why: str) -> ValueError:
    return ValueError(
      f'checkpoint {self._path(step)} {how} ({why}); '
      'without that directory the run goes on from the one before it'
    )


def _split(state: State) -> tuple[dict[str, Any], dict[str, Any]]:
  model = {'params': state.params, 'batch_stats': state.batch_stats}
  return model, {'step': state.step, 'opt_state': state.opt_state}


def _fingerprints(step: int, items: Mapping[str, Any]) -> dict[str, int]:
  """Of each array in the items, by its dotted path, and of the config.

  The step is among them: a directory under another's name is noticed, too.
  """
  arrays = {name: item for name, item in items.items() if name != 'config'}
  found = {'step': step, **fingerprint.of_arrays(arrays)}
  if 'config' in items:
    text = json.dumps(items['config'], sort_keys=True)
    found['config'] = zlib.crc32(text.encode())
  return found


def _restore_like(tree: Any) -> ocp.args.StandardRestore:
  return ocp.args.StandardRestore(
    jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)
  )
