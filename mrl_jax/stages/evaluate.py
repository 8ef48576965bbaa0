"""Measures a trained model at every width: by its heads, and by neighbours."""

import contextlib
import pathlib

import jax
from ml_collections import ConfigDict

from mrl_jax import terminal
from mrl_jax.analysis import accuracy
from mrl_jax.data.batches.damage import DamageLog
from mrl_jax.data.sources import eval_sets
from mrl_jax.data.sources.eval_sets import EvalSet
from mrl_jax.data.sources.example import Source
from mrl_jax.losses import metrics
from mrl_jax.stages import config as config_lib
from mrl_jax.stages import evaluation_files
from mrl_jax.stages import inputs
from mrl_jax.stages import recorded
from mrl_jax.stages import trained as trained_lib
from mrl_jax.stages.trained import Trained
from mrl_jax.terminal import tables
from mrl_jax.training import inference
from mrl_jax.training import sharding
from mrl_jax.workdir import Checkpoint
from mrl_jax.workdir import checksums
from mrl_jax.workdir import embeddings
from mrl_jax.workdir import predictions
from mrl_jax.workdir import Workdir
from mrl_jax.workdir.metrics_log import MetricWriter

# The name of the config's own evaluation split among the sets.
_OWN = 'val'


def outputs(config: ConfigDict, workdir: Workdir) -> list[pathlib.Path]:
  names = [_OWN, *(eval_sets.parse(x).name for x in config.eval_sets)]
  saved = predictions.paths(workdir.predictions, config.eval_split)
  kinds = config_lib.saved_kinds(config)
  return [
    workdir.metrics,
    *(workdir.evaluation / f'{name}.json' for name in names),
    *(saved[kind] for kind in (*kinds, *(['manifest'] if kinds else []))),
  ]


def run(config: ConfigDict, workdir: Workdir, checkpoint: Checkpoint) -> None:
  """Writes evaluation/ and predictions/, and prints tables.

  The evaluation split's `val/…@<width>` are written to metrics.jsonl as well,
  and those of each of `eval_sets` under its name. Loss, top-1 and top-5 of the
  heads are measured at the classifier dims, neighbours and few-shot (from the
  exported training split) at all measured dims. The config's second evaluation
  is `val_flip/…`.
  """
  source = recorded.open_mapped(config, config.eval_split, workdir)
  trained = trained_lib.restore(config, workdir, checkpoint, source.num_classes)
  own = EvalSet(_OWN, source, source.class_names)
  values, training = {}, None
  for eval_set in (own, *inputs.open_sets(config, source.class_names)):
    outputs = _predict(config, workdir, checkpoint, trained, eval_set)
    if jax.process_index():
      continue
    training = training or evaluation_files.training_set(config, workdir)
    is_own = eval_set is own
    same_rows = is_own and config.eval_split == config.train_split
    if is_own:
      embedding_ND, *_ = embeddings.load(workdir.embeddings, config.eval_split)
      outputs = outputs._replace(embedding_ND=embedding_ND)
    values |= _measure(
      config,
      workdir,
      checkpoint,
      eval_set,
      outputs,
      training._replace(leave_one_out=same_rows),
      source.num_classes,
    )
  if config.flip_eval_image_size:
    values |= _flipped(config, trained, source)
  if jax.process_index():
    return
  with MetricWriter(workdir.metrics) as writer:
    # Training has a row of its own, without neighbours.
    writer.replace(trained.step, values, prefix=f'{_OWN}/knn1')
  if config.flip_eval_image_size:
    dims = config_lib.classifier_dims(config)
    table = tables.widths(values, dims, 'val_flip/')
    terminal.say(
      f'at {config.flip_eval_image_size} pixels, averaged with mirror images\n'
      + terminal.table(table)
    )


def _predict(
  config: ConfigDict,
  workdir: Workdir,
  checkpoint: Checkpoint,
  trained: Trained,
  eval_set: EvalSet,
) -> accuracy.Outputs:
  """Runs the model over a set; saves predictions of the evaluation split."""
  is_own = eval_set.name == _OWN
  dims = config_lib.classifier_dims(config)
  kinds = config_lib.saved_kinds(config) if is_own else ()
  nesting_dims = tuple(config.nesting_dims)
  num_classes = config.num_classes or eval_set.source.num_classes
  step = inference.make_predict_step(
    trained.graphdef,
    inputs.normalize(config),
    inference.Wanted(
      dims,
      eval_set.members,
      config.eval_flip,
      saved_dims=nesting_dims if 'logits' in kinds else (),
      embedding=not is_own,
    ),
    sharding=sharding.replicated(trained.mesh),
  )
  damage = DamageLog(config.max_damaged)
  batches = inputs.evaluation_batches(
    config, eval_set.source, trained.mesh, damage
  )
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
          count=len(eval_set.source),
        )
      )
    found = evaluation_files.collect(batches, dims, writer, nesting_dims)
  # Each process has seen the damaged images among its own rows only.
  damaged = sharding.union(damage.keys)
  if writer:
    paths = predictions.paths(workdir.predictions, split)
    checksums.write(
      paths['manifest'],
      {
        'count': writer.count,
        'dims': list(nesting_dims),
        'num_classes': num_classes,
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
  return found


def _measure(
  config: ConfigDict,
  workdir: Workdir,
  checkpoint: Checkpoint,
  eval_set: EvalSet,
  outputs: accuracy.Outputs,
  training: accuracy.TrainingSet,
  num_classes: int,
) -> dict[str, float]:
  """Writes a set's tables, prints one, and returns its metrics."""
  labels = None
  if eval_set.labels is not None:
    labels = [eval_set.labels(int(index)) for index in outputs.index_N]
  unlabelled = sum(not right for right in labels or ())
  examples = len(outputs.label_N) - unlabelled
  settings = accuracy.Settings(
    widths=config_lib.measured_dims(config),
    neighbors=config.knn,
    shots=tuple(config.few_shot.shots),
    ways=tuple(config.few_shot.ways),
    repeats=config.few_shot.repeats,
    seed=config.seed,
  )
  measured = accuracy.measure(
    settings,
    outputs,
    training,
    num_set_classes=len(eval_set.class_names),
    of_model_C=eval_set.of_model(num_classes),
    labels=labels,
  )
  table = evaluation_files.write(
    workdir.evaluation,
    eval_set.name,
    measured,
    widths=settings.widths,
    dims=outputs.dims,
    class_names=eval_set.class_names,
    record={
      'set': eval_set.name,
      'examples': examples,
      **checkpoint.as_json(),
      'flip': config.eval_flip,
    },
  )
  name = config.eval_split if eval_set.name == _OWN else eval_set.name
  terminal.say(
    f'evaluate: {examples:,} examples of {name}, checkpoint of step '
    f'{checkpoint.step}\n' + terminal.table(table)
  )
  if unlabelled:
    terminal.say(f'{unlabelled:,} more have no label, and do not count')
  for note in measured.notes:
    terminal.say(note)
  return {f'{eval_set.name}/{k}': v for k, v in measured.values.items()}


def _flipped(
  config: ConfigDict, trained: Trained, source: Source
) -> dict[str, float]:
  """The second evaluation, averaged over each image and its mirror image."""
  dims = config_lib.classifier_dims(config)
  eval_step = inference.make_eval_step(
    trained.graphdef,
    inputs.normalize(config),
    dims=dims if config.head == 'mrl_e' else None,
    flip=True,
    sharding=sharding.replicated(trained.mesh),
  )
  damage = DamageLog(config.max_damaged)
  sums = inference.evaluate(
    eval_step,
    trained.params,
    trained.batch_stats,
    inputs.evaluation_batches(config, source, trained.mesh, damage, flip=True),
  )
  if line := damage.report():
    terminal.say(line)
  return metrics.from_sums(dims, sums, 'val_flip/')
