"""All analyses of one split, as the content of their files."""

from collections.abc import Mapping, Sequence
import math
from typing import Any, NamedTuple

import numpy as np

from mrl_jax import retrieval
from mrl_jax.analysis import calibration
from mrl_jax.analysis import cascade
from mrl_jax.analysis import oracle
from mrl_jax.analysis import per_example
from mrl_jax.analysis import structure
from mrl_jax.analysis import superclass
from mrl_jax.retrieval import inputs
from mrl_jax.workdir.predictions import Predictions

# Neighbours compared between widths, and the most examples that they are of.
NEIGHBORS, SAMPLE = 10, 2000


class Fitting(NamedTuple):
  """Settings for fitting and testing the cascade.

  Attributes:
    repeats: how often it is fitted to a random part of the examples.
    fit_share: the share of examples in that part.
    temperature: the temperature of a `cascade.Cascade`.
  """

  repeats: int = 30
  fit_share: float = 0.2
  temperature: float = 1.0


def compute(
  dims: Sequence[int],
  saved: Predictions,
  embedding_ND: np.ndarray,
  class_names: Sequence[str],
  *,
  groups: tuple[np.ndarray, tuple[str, ...]] | None,
  fitting: Fitting,
  seed: int,
) -> dict[str, Any]:
  """Computes the content of each file but few_shot.json, as arrays.

  `plain` makes JSON types of it. Accuracies are in percent. Examples of label
  -1 do not count.

  Args:
    dims: the widths.
    saved: the heads' outputs at these; the logits may stay on disk.
    embedding_ND: the embeddings of the same examples.
    class_names: the names of the first classes.
    groups: the group of each class and the groups' names, from
      `superclass.load_groups`; None leaves superclass.json out.
    fitting: for the cascade.
    seed: the seed of all random choices.

  Raises:
    ValueError: there are too few examples, or an analysis refuses its input.
  """
  logits_GNC, prediction_GN, label_N = saved[:3]
  _, N, num_classes = logits_GNC.shape
  label_N = per_example.check_labels(label_N, N, num_classes)
  counted = np.flatnonzero(label_N != inputs.IGNORED)
  if not counted.size:
    raise ValueError('no example has a label: there is nothing to analyse')
  if counted.size < N:
    logits_GNC = logits_GNC[:, counted]
    prediction_GN = prediction_GN[:, counted]
    label_N, embedding_ND = label_N[counted], embedding_ND[counted]
  group_C = None
  if groups:
    # A class without a name is in the reject group.
    group_C = np.pad(groups[0], (0, num_classes - len(groups[0])))
  temperature = fitting.temperature
  found = per_example.read(
    logits_GNC, label_N, group_C=group_C, temperature=temperature
  )
  # Logits in float16 have ties that the original logits do not have.
  found = found._replace(prediction_GN=prediction_GN)
  right_GN = prediction_GN == label_N[None]
  confidence_GN = found.confidence_GN
  fitted = cascade.fit(dims, confidence_GN, right_GN, temperature=temperature)
  per_class_GC = 100 * oracle.per_class(right_GN, label_N, num_classes)
  results = {
    'cascade_curve': _cascade_curve(
      dims, confidence_GN, right_GN, fitting, seed
    ),
    'oracle': _oracle(dims, prediction_GN, right_GN, label_N, per_class_GC),
    'calibration': _calibration(confidence_GN, right_GN),
    'per_class': {
      'classes': [
        *class_names,
        *map(str, range(len(class_names), num_classes)),
      ],
      'accuracy': per_class_GC,
    },
    'structure': _structure(embedding_ND, dims, seed),
  }
  if groups:
    measured = superclass.group_errors(found, label_N, group_C, len(groups[1]))
    results['superclass'] = {
      'groups': groups[1],
      'accuracy': 100 * measured.accuracy_G,
      'by_group': 100 * measured.accuracy_GS,
      'inside': 100 * measured.inside_GS,
      'across': 100 * measured.across_GS,
      'within': 100 * measured.within_GS,
    }
  results = {name: {'dims': dims, **x} for name, x in results.items()}
  return {'cascade': fitted._asdict(), **results}


def _cascade_curve(dims, confidence_GN, right_GN, fitting, seed):
  repeats, fit_share, _ = fitting
  curve = cascade.measure(
    dims, confidence_GN, right_GN, fit_share=fit_share, repeats=repeats,
    seed=seed,
  )  # fmt: skip
  return {
    'accuracy': _spread(curve.accuracy, 100),
    'expected_dim': _spread(curve.last),
    'cumulated_dim': _spread(curve.cumulated),
    'thresholds': _spread(curve.thresholds),
    'repeats': repeats,
    'fit_share': fit_share,
    'single': 100 * right_GN.mean(1),
  }


def _spread(mean_and_std, scale: float = 1) -> dict[str, np.ndarray]:
  mean, std = mean_and_std
  return {'mean': scale * mean, 'std': scale * std}


def _oracle(dims, prediction_GN, right_GN, label_N, per_class_GC):
  found = oracle.oracle(dims, right_GN)
  trends = oracle.trends(per_class_GC)
  return {
    'count': found.count_G,
    'never': found.never,
    'examples': len(label_N),
    'accuracy': 100 * found.accuracy,
    'expected_dim': found.expected_dim,
    'majority': 100 * (oracle.majority(prediction_GN) == label_N).mean(),
    'agreement': oracle.agreement(prediction_GN),
    'trends': {name: trends.count(name) for name in dict.fromkeys(trends)},
    'trend_of_class': trends,
  }


def _calibration(confidence_GN, right_GN):
  found = calibration.bin_confidences(confidence_GN, right_GN)
  return {
    'ece': 100 * found.error_G,
    'bins': {
      'confidence': 100 * found.confidence_GB,
      'accuracy': 100 * found.accuracy_GB,
      'count': found.count_GB,
    },
  }


def _structure(embedding_ND, dims, seed):
  N = len(embedding_ND)
  rng = np.random.default_rng(seed)
  rows = np.sort(rng.choice(N, min(SAMPLE, N), replace=False))
  # An example has no more neighbours than there are others.
  k = min(NEIGHBORS, N - 1)
  database = retrieval.prepare(embedding_ND, dims)
  query_QD = np.asarray(embedding_ND[rows])
  ids = []
  for dim in dims:
    found = retrieval.search(query_QD, database, k, dim=dim, leave_one_out=rows)
    ids.append(found.ids_QK)
  return {
    'explained_variance': structure.explained_variance(embedding_ND, dims),
    'overlap': structure.neighborhood_overlap(np.stack(ids)),
    'k': k,
  }


def plain(value: Any) -> Any:
  """Converts to JSON types: arrays to lists, and NaN to None."""
  if isinstance(value, Mapping):
    return {key: plain(x) for key, x in value.items()}
  if isinstance(value, np.ndarray | np.generic):
    value = value.tolist()
  if isinstance(value, list | tuple):
    return [plain(x) for x in value]
  if isinstance(value, float) and math.isnan(value):
    return None
  return value
