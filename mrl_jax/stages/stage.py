"""The table of stages: their functions, config fields and dependencies."""

from collections.abc import Callable, Sequence
import dataclasses
import pathlib

from ml_collections import ConfigDict

from mrl_jax.stages import analyze
from mrl_jax.stages import config as config_lib
from mrl_jax.stages import embed
from mrl_jax.stages import evaluate
from mrl_jax.stages import export
from mrl_jax.stages import report
from mrl_jax.stages import retrieve
from mrl_jax.stages import train
from mrl_jax.stages.pairs import evaluate as pair_evaluate
from mrl_jax.stages.pairs import export as pair_export
from mrl_jax.stages.pairs import report as pair_report
from mrl_jax.stages.pairs import train as pair_train
from mrl_jax.stages.text import evaluate as text_evaluate
from mrl_jax.stages.text import export as text_export
from mrl_jax.stages.text import report as text_report
from mrl_jax.stages.text import train as text_train
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

  def runs_first(self, config: ConfigDict) -> tuple[str, ...]:
    """The stages that are run first; none where texts are examples."""
    return () if config_lib.has_texts(config) else self.first


def _either(
  of_images: Callable, of_texts: Callable, of_pairs: Callable
) -> Callable:
  """A function of a config and more: one for each kind of examples."""

  def chosen(config, *args):
    if config_lib.is_pairs(config):
      return of_pairs(config, *args)
    is_text = config_lib.is_text(config)
    return (of_texts if is_text else of_images)(config, *args)

  return chosen


# The stages that there are where the examples are texts, or have texts.
TEXT_STAGES = ('train', 'evaluate', 'report', 'export')

STAGES = {
  'train': Stage(
    _either(train.run, text_train.run, pair_train.run),
    _either(train.outputs, text_train.outputs, pair_train.outputs),
  ),
  'evaluate': Stage(
    _either(evaluate.run, text_evaluate.run, pair_evaluate.run),
    _either(evaluate.outputs, text_evaluate.outputs, pair_evaluate.outputs),
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
    _either(report.run, text_report.run, pair_report.run),
    _either(report.outputs, text_report.outputs, pair_report.outputs),
    needs=('evaluate',),
    shows=('retrieve', 'analyze'),
    alone=True,
  ),
  'export': Stage(
    _either(export.run, text_export.run, pair_export.run),
    _either(export.outputs, text_export.outputs, pair_export.outputs),
    fields=frozenset({'eval_split', 'eval_dims', 'checkpoint'}),
    first=('evaluate',),
    shows=('analyze',),
  ),
}
