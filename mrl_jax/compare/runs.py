"""The accuracies of finished runs by width, and of baselines made from them."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ml_collections import ConfigDict
import numpy as np

from mrl_jax import losses
from mrl_jax import stages
from mrl_jax.compare import probe as linear_probe
from mrl_jax.retrieval import projections
from mrl_jax.stages import recorded
from mrl_jax.stages.analyze import baselines as baselines_stage
from mrl_jax.training.checkpoint import Checkpoints
from mrl_jax.workdir import embeddings
from mrl_jax.workdir import Workdir
from mrl_jax.workdir.metrics_log import last_evaluation

_KINDS = {'mrl': 'MRL', 'mrl_e': 'MRL-E', 'fixed': 'FF'}


class Run(NamedTuple):
  """A finished run; accuracies are in percent, by width."""

  kind: str  # MRL, MRL-E, FF or Slim.
  config: ConfigDict
  workdir: Workdir
  linear: dict[int, float]  # Top-1 of the heads.
  neighbor: dict[int, float]  # 1-NN.


def read(path: str) -> Run:
  """Reads a run; ValueError names the stage to run if it is not evaluated."""
  config, workdir = stages.open_recorded(path)
  last = config.nesting_dims[-1]
  # Rows may be of several checkpoints; marks of old runs have no step.
  step = workdir.marks().get('evaluate', {}).get('step')
  values = last_evaluation(workdir.metrics, last, step)
  if values is None:
    raise ValueError(f'{path} is not evaluated: run --mode=evaluate first')
  return Run(
    kind_of(config),
    config,
    workdir,
    by_width(values, 'val/top1@'),
    # An FF run is of one width; accuracies at others are those of cut features.
    {last: values[f'val/knn1@{last}']}
    if config.head == 'fixed'
    else by_width(values, 'val/knn1@'),
  )


def widths(run: Run) -> tuple[int, ...]:
  """The widths of a run; a slimmable run has its measured dims, too."""
  config = run.config
  between = config.eval_dims if config.slimmable else ()
  return (*config.nesting_dims, *between)


def kind_of(config: ConfigDict) -> str:
  """MRL, MRL-E, FF or Slim; the head's name for one without classifiers."""
  return 'Slim' if config.slimmable else _KINDS.get(config.head, config.head)


def by_width(record: Mapping[str, float], prefix: str) -> dict[int, float]:
  """The values whose names are this prefix and a width, by the width."""
  return {
    int(name.removeprefix(prefix)): value
    for name, value in record.items()
    if name.startswith(prefix)
  }


def check_alike(runs: Sequence[Run]) -> None:
  """Raises ValueError for runs of different datasets or encoders.

  Datasets are compared by their records, and by their names only where a run
  has no record.
  """
  first = runs[0]
  for run in runs[1:]:
    there, here = (recorded.read(x.workdir) for x in (first, run))
    by_name = () if there and here else ('dataset',)
    for name in ('train_split', 'eval_split', 'encoder', *by_name):
      one, other = run.config[name], first.config[name]
      if one != other:
        raise ValueError(
          f'{run.workdir.path} has {name} {one!r} and {first.workdir.path} '
          f'{other!r}: compare runs of the same'
        )
    if not by_name and there != here:
      raise ValueError(
        f'{run.workdir.path} was trained on other classes or files than '
        f'{first.workdir.path}: compare runs of the same'
      )


def full_width(runs: Sequence[Run]) -> Run | None:
  """The first fixed-feature run of the encoder's full width, if any."""
  for run in runs:
    if run.kind == 'FF':
      _, _, manifest = embeddings.load(
        run.workdir.embeddings, run.config.eval_split
      )
      if run.config.nesting_dims[-1] == manifest['dim']:
        return run
  return None


def linear_baselines(
  run: Run, dims: Sequence[int], *, probe: bool = True
) -> dict[str, dict[int, float]]:
  """Measures the top-1 in percent of `SVD` and `Rand. LP`, by width.

  SVD is the classifier of the full width at a lower rank. Rand. LP is a
  logistic regression on random dims of the embedding, trained here; without
  `probe` it is left out.
  """
  config, workdir = run.config, run.workdir
  (*rows, _), (*queries, manifest) = (
    embeddings.load(workdir.embeddings, split)
    for split in (config.train_split, config.eval_split)
  )
  if not workdir.checkpoint(manifest['step']).has_made(manifest):
    raise ValueError(
      f'{workdir.embeddings} is of a checkpoint that is not there any more: '
      'run --mode=embed again'
    )
  with Checkpoints(workdir.checkpoints) as checkpoints:
    shapes = checkpoints.model_shapes(manifest['step'])
    restored = checkpoints.restore_model(shapes, manifest['step'])
  head = restored['params']['head']
  kernel_DC, bias_C = (np.asarray(head[name]) for name in ('kernel', 'bias'))
  D, C = kernel_DC.shape
  found = {'SVD': low_rank(kernel_DC, bias_C, *queries, dims)}
  if probe:
    found['Rand. LP'] = linear_probe.top1(
      linear_probe.Rows(*rows),
      linear_probe.Rows(*queries),
      dims,
      num_classes=C,
      order_D=projections.random_order(D, seed=config.seed),
      seed=config.seed,
    )
  return found


def low_rank(
  kernel_DC: np.ndarray,
  bias_C: np.ndarray,
  query_QD: np.ndarray,
  query_label_Q: np.ndarray,
  dims: Sequence[int],
) -> dict[int, float]:
  """Top-1 in percent of the classifier's best approximation of each rank."""
  counted_Q = query_label_Q != losses.IGNORED
  u_DR, s_R, v_RC = np.linalg.svd(kernel_DC, full_matrices=False)
  found = {}
  for dim in dims:
    if dim < len(kernel_DC):
      reduced_QR = query_QD @ (u_DR[:, :dim] * s_R[:dim])
      logits_QC = reduced_QR @ v_RC[:dim] + bias_C
      right_Q = (logits_QC.argmax(1) == query_label_Q)[counted_Q]
      found[dim] = 100 * float(right_Q.mean())
  return found


def neighbor_baselines(
  run: Run, dims: Sequence[int]
) -> tuple[dict[str, dict[int, float | None]], bool]:
  """Measures 1-NN accuracy in percent of the full width's projections.

  `FF cut` is the prefix of an embedding that was trained for the full width
  only. Returns accuracies by name and width, and whether a sample was searched.
  """
  record = baselines_stage.measure(run.config, run.workdir, tuple(dims))
  names = {
    'nested': 'FF cut',
    'SVD': 'SVD',
    'random dims': 'Rand. FS',
    'random projection': 'JL',
  }
  found = {
    shown: dict(zip(record['dims'], record['knn1'][name], strict=True))
    for name, shown in names.items()
  }
  return found, record['sampled']
