"""Opens what later stages need before the first step is trained."""

from collections.abc import Sequence

from ml_collections import ConfigDict

from mrl_jax.stages import analyze
from mrl_jax.stages import evaluate
from mrl_jax.stages import recorded
from mrl_jax.workdir import Workdir


def check(config: ConfigDict, workdir: Workdir, modes: Sequence[str]) -> None:
  """Raises ValueError for a file or dataset that one of `modes` cannot use.

  A stage would find that out itself, but only after the training.
  """
  sets = 'evaluate' in modes and config.eval_sets
  groups = 'analyze' in modes and config.superclasses
  class_names = recorded.class_names(config, workdir) if sets or groups else ()
  if sets:
    evaluate.open_sets(config, class_names)
  if groups:
    analyze.load_groups(config.superclasses, class_names)
