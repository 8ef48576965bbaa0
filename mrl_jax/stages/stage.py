"""The table of stages: their functions, config fields and dependencies."""

from collections.abc import Callable, Sequence
import dataclasses
import pathlib

from ml_collections import ConfigDict

from mrl_jax.stages import analyze
from mrl_jax.stages import embed
from mrl_jax.stages import evaluate
from mrl_jax.stages import export
from mrl_jax.stages import report
from mrl_jax.stages import retrieve
from mrl_jax.stages import train
from mrl_jax.workdir import Checkpoint
from mrl_jax.workdir import DATASET_FIELDS
from mrl_jax.workdir import Workdir


@dataclasses.dataclass(frozen=True)
class Stage:
  """A pipeline stage and its dependencies.

  It runs again if one of the paths that `outputs` returns is missing.
  """

  run: Callable[[ConfigDict, Workdir, Checkpoint], None]
  outputs: Callable[[ConfigDict, Workdir], Sequence[pathlib.Path]]
  # The config fields that it reads, beside those of the training.
  fields: frozenset[str] = frozenset()
  needs: tuple[str, ...] = ()  # Stages that must be finished before.
  first: tuple[str, ...] = ()  # Stages that are run first if unfinished.
  shows: tuple[str, ...] = ()  # Stages whose results it uses if they exist.
  alone: bool = False  # Only the first process runs it.


STAGES = {
  'train': Stage(train.run, train.outputs),
  'evaluate': Stage(
    evaluate.run,
    evaluate.outputs,
    fields=frozenset(
      {
        'eval_split',
        'eval_dims',
        'eval_sets',
        'eval_flip',
        'knn',
        'few_shot',
        'checkpoint',
        *DATASET_FIELDS,
      }
    ),
    first=('embed',),
  ),
  'embed': Stage(
    embed.run,
    embed.outputs,
    fields=frozenset({'eval_split', 'checkpoint', *DATASET_FIELDS}),
  ),
  'retrieve': Stage(
    retrieve.run,
    retrieve.outputs,
    fields=frozenset({'eval_split', 'eval_dims', 'retrieval', 'checkpoint'}),
    needs=('embed',),
    alone=True,
  ),
  'analyze': Stage(
    analyze.run,
    analyze.outputs,
    fields=frozenset({'eval_split', 'checkpoint', 'superclasses', 'cascade'}),
    needs=('evaluate', 'embed'),
    alone=True,
  ),
  'report': Stage(
    report.run,
    report.outputs,
    needs=('evaluate',),
    shows=('retrieve', 'analyze'),
    alone=True,
  ),
  'export': Stage(
    export.run,
    export.outputs,
    fields=frozenset({'eval_split', 'eval_dims', 'checkpoint'}),
    first=('evaluate',),
    shows=('analyze',),
  ),
}
