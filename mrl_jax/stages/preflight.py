"""Opens what later stages need before the first step is trained."""

from collections.abc import Sequence

from ml_collections import ConfigDict

from mrl_jax.stages import analyze
from mrl_jax.stages import build
from mrl_jax.stages import evaluate


def check(config: ConfigDict, modes: Sequence[str]) -> None:
  """Raises ValueError for a file or dataset that one of `modes` cannot use.

  A stage would find that out itself, but only after the training.
  """
  if 'evaluate' in modes and config.eval_sets:
    evaluate.open_sets(config)
  if 'analyze' in modes and config.superclasses:
    class_names = build.source(config, config.eval_split).class_names
    analyze.load_groups(config.superclasses, class_names)
