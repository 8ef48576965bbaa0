"""Whether a stage is finished, by its mark in the workdir."""

from collections.abc import Sequence
import json

from ml_collections import ConfigDict

from mrl_jax.stages import trained as trained_lib
from mrl_jax.stages.stage import STAGES
from mrl_jax.workdir import Checkpoint
from mrl_jax.workdir import Workdir


def is_finished(
  name: str,
  config: ConfigDict,
  workdir: Workdir,
  checkpoint: Checkpoint | None = None,
) -> bool:
  """Whether the stage is finished for this config and checkpoint.

  `checkpoint` is the one that the stage would read; None: the one that the
  config names. A training is finished if it ended with the latest checkpoint.
  """
  if name == 'train':
    checkpoint = workdir.checkpoint(workdir.latest_step())
  elif checkpoint is None:
    checkpoint = trained_lib.chosen(config, workdir)
  mark = workdir.marks().get(name, {})
  expected = _fingerprint(name, workdir, checkpoint)
  # Before 2026-11-28 marks named a checkpoint by its step alone. That is enough
  # for a training, as not every one can be repeated: an import has no optimizer
  # state.
  if name == 'train' and 'checkpoint' not in mark:
    expected = json.dumps([*json.loads(expected)[:-1], checkpoint.step])
  return mark.get('fingerprint') == expected and all(
    path.exists() for path in STAGES[name].outputs(config, workdir)
  )


def mark_finished(
  name: str,
  workdir: Workdir,
  seconds: float,
  checkpoint: Checkpoint | None = None,
) -> None:
  """Records that the stage is finished.

  `checkpoint` is the one that it read; None: the latest, for a training.
  """
  if checkpoint is None:
    checkpoint = workdir.checkpoint(workdir.latest_step())
  fingerprint = _fingerprint(name, workdir, checkpoint)
  workdir.mark(name, fingerprint, seconds, checkpoint)


def check_needs(
  name: str,
  others: Sequence[str],
  config: ConfigDict,
  workdir: Workdir,
  checkpoint: Checkpoint,
) -> None:
  """Raises ValueError if one of the other stages is not finished."""
  for other in others:
    if not is_finished(other, config, workdir, checkpoint):
      raise ValueError(
        f'{name} reads what {other} writes, which is not in {workdir.path} for '
        f'this config and checkpoint: run --mode={other} first'
      )


def _fingerprint(name: str, workdir: Workdir, checkpoint: Checkpoint) -> str:
  """A string that changes with the config, the checkpoint or earlier stages."""
  stage = STAGES[name]
  marks = workdir.marks()
  sources = [
    marks.get(other, {}).get('fingerprint')
    for other in (*stage.needs, *stage.first, *stage.shows)
  ]
  parts = (workdir.hash_of(), workdir.hash_of(stage.fields), sources)
  return json.dumps([*parts, list(checkpoint)])
