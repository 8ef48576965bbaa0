"""Evaluation sets of texts and of pairs: opened, and their results on disk."""

from collections.abc import Callable, Mapping, Sequence
import pathlib
from typing import Any

from ml_collections import ConfigDict

from mrl_jax import terminal
from mrl_jax.data.sources import provenance
from mrl_jax.report import measurements
from mrl_jax.report import page as page_lib
from mrl_jax.report.content import Headline
from mrl_jax.report.content import Section
from mrl_jax.terminal import tables
from mrl_jax.workdir import Checkpoint
from mrl_jax.workdir import checksums
from mrl_jax.workdir import files
from mrl_jax.workdir import Workdir
from mrl_jax.workdir.metrics_log import read_metrics


def open_all(config: ConfigDict, open_set: Callable[[str], Any]) -> list[Any]:
  """Opens each of `eval_sets`; raises ValueError with each one's fault."""
  opened, faults = [], []
  for text in config.eval_sets:
    try:
      opened.append(open_set(text))
    except ValueError as error:
      faults.append(str(error))
  if faults:
    raise ValueError('; '.join(faults))
  return opened


def digest(
  config: ConfigDict, list_set: Callable[[str], Mapping[str, str]]
) -> str:
  """A digest of the files of `eval_sets`; `list_set` has a text for each."""
  listings = []
  for text in config.eval_sets:
    try:
      listings.append(list_set(text))
    except (ValueError, OSError):
      listings.append({text: 'missing'})
  return '-'.join(map(provenance.digest, listings))


def outputs(workdir: Workdir, names: Sequence[str]) -> list[pathlib.Path]:
  """What evaluate writes of sets of these names."""
  return [workdir.metrics, *(_path(workdir, name) for name in names)]


def write(
  workdir: Workdir,
  checkpoint: Checkpoint,
  record: Mapping[str, Any],
  said: str,
) -> None:
  """Writes a set's record and its table, and prints the table behind `said`.

  `record` has the name `set`, its metrics `values` and their `widths`.
  """
  table = tables.widths(record['values'], record['widths'])
  path = _path(workdir, record['set'])
  files.write_text(path.with_suffix('.md'), tables.markdown(table))
  files.write_text(path.with_suffix('.csv'), tables.csv(table))
  checksums.write(path, {**record, **checkpoint.as_json()})
  terminal.say(
    f'evaluate: {record["set"]}, {said}, checkpoint of step {checkpoint.step}; '
    'in %\n' + terminal.table(table)
  )


def read(
  workdir: Workdir,
  checkpoint: Checkpoint,
  names: Sequence[str],
  schema: type,
) -> list[Any]:
  """Reads the records of sets; ValueError without any, or of other arrays."""
  found = []
  for path in (_path(workdir, name) for name in names):
    record = checksums.read(path, 'delete it and run --mode=evaluate').record
    record = files.checked(record, str(path), schema)
    if not checkpoint.has_made(record):
      raise ValueError(f'{path} is of another checkpoint: run --mode=evaluate')
    found.append(record)
  if not found:
    raise ValueError('report: eval_sets is empty, so there is nothing to show')
  return found


def write_page(
  config: ConfigDict,
  workdir: Workdir,
  title: str,
  headline: Headline,
  sections: Sequence[Section],
) -> None:
  """Writes report/index.html: these sections, the training, the settings."""
  dims = tuple(config.nesting_dims)
  page = page_lib.render(
    f'{config.name}: {title}',
    headline,
    [
      *sections,
      measurements.training(read_metrics(workdir.metrics), dims),
      measurements.settings(workdir.config),
    ],
    footer='',
  )
  path = page_path(workdir)
  with files.replacing(path) as temporary:
    temporary.write_text(page, encoding='utf-8')
  terminal.say(f'report: {path}, {len(page) / 1e6:.1f} MB')


def page_path(workdir: Workdir) -> pathlib.Path:
  return workdir.report / 'index.html'


def _path(workdir: Workdir, name: str) -> pathlib.Path:
  return workdir.evaluation / f'{name}.json'
