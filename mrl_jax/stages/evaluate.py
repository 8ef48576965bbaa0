"""Measures a trained model at every width: by its heads, and by neighbours."""

from collections.abc import Mapping, Sequence
import contextlib
import pathlib

import jax
from ml_collections import ConfigDict
import numpy as np

from mrl_jax import losses
from mrl_jax import retrieval
from mrl_jax import terminal
from mrl_jax.data.batches.damage import DamageLog
from mrl_jax.data.sources import eval_sets
from mrl_jax.data.sources.eval_sets import EvalSet
from mrl_jax.losses import metrics
from mrl_jax.stages import build
from mrl_jax.stages import measure
from mrl_jax.terminal import tables
from mrl_jax.training import inference
from mrl_jax.training import sharding
from mrl_jax.training import state as state_lib
from mrl_jax.workdir import Checkpoint
from mrl_jax.workdir import checksums
from mrl_jax.workdir import embeddings
from mrl_jax.workdir import predictions
from mrl_jax.workdir import Workdir
from mrl_jax.workdir.metrics_log import MetricWriter

# The name of the config's own evaluation split among the sets.
_OWN = 'val'


def outputs(config: ConfigDict, workdir: Workdir) -> list[pathlib.Path]:
  names = [
    _OWN,
    *(eval_sets.parse(x).name for x in config.eval_sets),
  ]
  saved = predictions.paths(workdir.predictions, config.eval_split)
  kinds = build.saved(config)
  return [
    workdir.metrics,
    *(workdir.evaluation / f'{name}.json' for name in names),
    *(saved[kind] for kind in (*kinds, *(['manifest'] if kinds else []))),
  ]


def run(
  config: ConfigDict, workdir: Workdir, checkpoint: Checkpoint | None = None
) -> None:
  """Writes evaluation/ and predictions/, and prints tables.

  The evaluation split's `val/…@<width>` also go to metrics.jsonl, and those of
  each of `eval_sets` under its name. The heads give loss, top-1 and top-5 at
  the nesting dims, and with MRL-E at `eval_dims` too; neighbours and few-shot,
  from the exported training split, are measured at all of both. The second
  evaluation of the config is `val_flip/…`. `checkpoint` is the one to read;
  None: what the config says.
  """
  if checkpoint is None:
    checkpoint = build.chosen(config, workdir)
  mesh = sharding.make_mesh(config.mesh.data * config.mesh.model)
  source = build.source(config, config.eval_split, workdir)
  trained = build.trained(
    config,
    workdir,
    mesh,
    source.num_classes,
    needed_by='evaluate',
    checkpoint=checkpoint,
  )
  sets = [
    EvalSet(_OWN, source, source.class_names),
    *open_sets(config, source.class_names),
  ]
  values, training = {}, None
  for opened in sets:
    seen = _see(config, workdir, mesh, trained, checkpoint, opened)
    if not jax.process_index():
      training = training or _training(config, workdir)
      values |= _measure(
        config,
        workdir,
        checkpoint,
        opened,
        seen,
        training._replace(
          leave_one_out=opened.name == _OWN
          and config.eval_split == config.train_split
        ),
        source.num_classes,
      )
  if config.flip_eval_image_size:
    values |= _flipped(config, mesh, trained, source)
  if jax.process_index():
    return
  with MetricWriter(workdir.metrics) as writer:
    # Training has a row of its own, without neighbours.
    writer.replace(trained.step, values, prefix=f'{_OWN}/knn1')
  if config.flip_eval_image_size:
    terminal.say(
      f'at {config.flip_eval_image_size} pixels, averaged with mirror images\n'
      + terminal.table(tables.flipped(values, _dims(config)))
    )


def open_sets(config: ConfigDict, class_names: Sequence[str]) -> list[EvalSet]:
  """The `eval_sets`, for a model of these classes.

  Raises ValueError with a reason for each that cannot be opened.
  """
  opened, faults = [], []
  for entry in config.eval_sets:
    try:
      opened.append(
        eval_sets.open_set(
          entry, class_names, config.data_dir, as_seen=config.as_seen
        )
      )
    except ValueError as error:
      faults.append(str(error))
  if faults:
    raise ValueError('; '.join(faults))
  return opened


def _dims(config: ConfigDict) -> tuple[int, ...]:
  """The widths that have a classifier."""
  if config.head == 'none':
    return ()
  if config.head == 'mrl_e':
    return build.widths(config)
  return tuple(config.nesting_dims)


def _see(
  config, workdir, mesh, trained, checkpoint: Checkpoint, opened: EvalSet
) -> measure.Seen:
  """One pass over a set; saves what is to be saved of the own split."""
  is_own = opened.name == _OWN
  kinds = build.saved(config) if is_own else ()
  nesting_dims = tuple(config.nesting_dims)
  step = inference.make_step(
    trained.graphdef,
    build.normalize(config),
    dims=_dims(config),
    members=opened.members,
    flip=config.eval_flip,
    saved_dims=nesting_dims if 'logits' in kinds else (),
    embedding=not is_own,
    sharding=sharding.replicated(mesh),
  )
  damage = DamageLog(config.max_damaged)
  batches = build.evaluation_batches(config, opened.source, mesh, damage)
  batches = inference.run(step, trained.params, trained.batch_stats, batches)
  split = config.eval_split
  if is_own and not jax.process_index():
    predictions.remove(workdir.predictions, split)
  with contextlib.ExitStack() as stack:
    writer = None
    if kinds and not jax.process_index():
      writer = stack.enter_context(
        predictions.writing(
          workdir.predictions,
          split,
          kinds,
          dims=nesting_dims,
          count=len(opened.source),
        )
      )
    at = [_dims(config).index(dim) for dim in nesting_dims if writer]
    seen = measure.collect(batches, writer, np.array(at))
  # Each process has seen those of its own rows.
  damaged = sharding.union(damage.keys)
  if writer:
    paths = predictions.paths(workdir.predictions, split)
    checksums.write(
      paths['manifest'],
      {
        'count': writer.count,
        'dims': list(nesting_dims),
        'num_classes': config.num_classes or opened.source.num_classes,
        'kinds': list(kinds),
        'head': config.head,
        'flip': config.eval_flip,
        'dataset': config.embeddings or config.dataset,
        'split': split,
        **checkpoint.as_json(),
        'config_hash': workdir.hash_of(),
        'damaged': damaged,
      },
      [paths[kind] for kind in kinds],
    )
  if line := damage.report():
    terminal.say(line)
  return seen


def _training(config: ConfigDict, workdir: Workdir) -> measure.Training:
  embedding_MD, label_M, _ = embeddings.load(
    workdir.embeddings, config.train_split
  )
  # What has no label cannot tell another's.
  counted = np.flatnonzero(label_M != losses.IGNORED)
  if len(counted) < len(label_M):
    embedding_MD, label_M = embedding_MD[counted], label_M[counted]
  database = retrieval.prepare(embedding_MD, build.widths(config))
  return measure.Training(database, embedding_MD, label_M)


def _measure(
  config: ConfigDict,
  workdir: Workdir,
  checkpoint: Checkpoint,
  opened: EvalSet,
  seen: measure.Seen,
  training: measure.Training,
  num_classes: int,
) -> dict[str, float]:
  """Writes a set's tables, prints one, and returns its metrics."""
  query_QD = seen.embedding_ND
  if query_QD is None:
    query_QD, *_ = embeddings.load(workdir.embeddings, config.eval_split)
  labels = _labels(opened, seen.index_N)
  unlabelled = sum(not right for right in labels or ())
  examples = len(seen.label_N) - unlabelled
  measured = measure.measure(
    config,
    seen,
    query_QD,
    training,
    dims=_dims(config),
    num_set_classes=len(opened.class_names),
    of_model_C=opened.of_model(num_classes),
    labels=labels,
  )
  table = measure.write(
    workdir.evaluation,
    opened.name,
    measured,
    widths=build.widths(config),
    dims=_dims(config),
    class_names=opened.class_names,
    record={
      'set': opened.name,
      'examples': examples,
      **checkpoint.as_json(),
      'flip': config.eval_flip,
    },
  )
  what = config.eval_split if opened.name == _OWN else opened.name
  terminal.say(
    f'evaluate: {examples:,} examples of {what}, checkpoint of step '
    f'{checkpoint.step}\n' + terminal.table(table)
  )
  if unlabelled:
    terminal.say(f'{unlabelled:,} more have no label, and do not count')
  for note in measured.notes:
    terminal.say(note)
  return {f'{opened.name}/{k}': v for k, v in measured.values.items()}


def _labels(opened: EvalSet, index_N) -> Sequence[Sequence[int]] | None:
  if opened.labels is None:
    return None
  return [opened.labels(int(index)) for index in index_N]


def _flipped(config, mesh, trained, source) -> Mapping[str, float]:
  dims = _dims(config)
  eval_step = state_lib.make_eval_step(
    trained.graphdef,
    build.normalize(config),
    dims=dims if config.head == 'mrl_e' else None,
    flip=True,
    sharding=sharding.replicated(mesh),
  )
  damage = DamageLog(config.max_damaged)
  sums = state_lib.evaluate(
    eval_step,
    trained.params,
    trained.batch_stats,
    build.evaluation_batches(config, source, mesh, damage, flip=True),
  )
  if line := damage.report():
    terminal.say(line)
  return metrics.from_sums(dims, sums, 'val_flip')
