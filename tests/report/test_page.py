"""The report's files, and what the page says where results are missing."""

import json
import re
import shutil

import pytest

from mrl_jax import stages
from mrl_jax.report import headline
from mrl_jax.stages import report
from tests.report import analyses


@pytest.fixture(scope='module')
def made(tmp_path_factory):
  """A config and a workdir whose report is written."""
  config, workdir = analyses.make_run(tmp_path_factory.mktemp('run'))
  report.run(config, workdir, workdir.checkpoint(3))
  return config, workdir


def test_what_is_missing_is_named(made, tmp_path):
  """The page of a run that was only evaluated says what would add the rest."""
  config, workdir = made
  bare = stages.open_workdir(config, tmp_path)
  shutil.copy(workdir.metrics, bare.metrics)
  report.run(config, bare, bare.checkpoint(3))
  page = (bare.report / 'index.html').read_text()
  assert '--mode=retrieve,report' in page
  assert '--mode=analyze,report' in page
  assert 'id="space"' not in page
  assert page.count('class="plot') == 3


def test_one_width_alone_is_not_compared_with_itself(made, tmp_path):
  config, workdir = made
  fixed = config.copy_and_resolve_references()
  fixed.update(head='fixed', nesting_dims=(64,), eval_dims=())
  bare = stages.open_workdir(fixed, tmp_path)
  shutil.copy(workdir.metrics, bare.metrics)
  report.run(fixed, bare, bare.checkpoint(3))
  page = (bare.report / 'index.html').read_text()
  assert '<em>76.00 %</em> at width 64.' in page
  assert 'class="dolls"' not in page


def test_the_headline_is_the_smallest_width_that_keeps_99_percent():
  config = {
    'name': 'x', 'encoder': 'resnet8', 'head': 'mrl', 'dataset': 'digits',
    'nesting_dims': [2, 8, 64],
  }  # fmt: skip
  values = {
    'step': 9, 'val/top1@2': 70, 'val/top1@8': 79.2, 'val/top1@64': 80,
    'val/knn1@2': 70, 'val/knn1@8': 79.3, 'val/knn1@64': 80,
  }  # fmt: skip
  found = headline.make(config, values, None)
  assert (found.before, found.stress) == ('', '8 of 64 numbers')
  assert [tile.big for tile in found.tiles] == ['79.20 %', '32 B', '1/8']
  assert [doll.kind for doll in found.dolls] == ['', 'chosen', 'keeps']
  # 1-NN has a width of its own, which may be larger than the classifier's.
  far = headline.make(config, values | {'val/knn1@8': 70}, None)
  assert [tile.big for tile in far.tiles] == ['79.20 %', '256 B', '1/1']
  values['val/top1@8'] = 79.1  # 98.9 % of 80.
  assert headline.make(config, values, None).stress == 'all 64 numbers'


def test_what_belongs_to_another_checkpoint_is_left_out(made, tmp_path, capsys):
  config, workdir = made
  copy = stages.open_workdir(
    config, shutil.copytree(workdir.path, tmp_path / 'run')
  )
  path = copy.path / 'analysis' / 'oracle.json'
  path.write_text(json.dumps(json.loads(path.read_text()) | {'step': 2}))
  report.run(config, copy, copy.checkpoint(3))
  assert f'{path} is of another checkpoint' in capsys.readouterr().out
  assert 'plot-oracle' not in (copy.report / 'index.html').read_text()
  assert not (copy.report / 'oracle.svg').exists()


@pytest.mark.parametrize('name', ['projection.jpg', 'saliency.npz'])
def test_a_file_that_is_gone_names_the_stage(made, tmp_path, name):
  config, workdir = made
  copy = stages.open_workdir(
    config, shutil.copytree(workdir.path, tmp_path / 'run')
  )
  (copy.path / 'analysis' / name).unlink()
  with pytest.raises(ValueError, match=rf'{name}.* run --mode=analyze'):
    report.run(config, copy, copy.checkpoint(3))


def test_every_colour_has_one_for_the_dark_page(made):
  _, workdir = made
  page = (workdir.report / 'index.html').read_text()
  parts = {
    name: page.partition(f'id="{name}">')[2].partition('</script>')[0]
    for name in ('figures', 'projection', 'themes')
  }
  themes = json.loads(parts.pop('themes'))
  for text in parts.values():
    used = set(re.findall('#[0-9a-f]{6}', text))
    assert len(used) > 5 and used <= themes.keys()


def test_names_of_classes_are_no_markup(made):
  _, workdir = made
  page = (workdir.report / 'index.html').read_text()
  assert '<class 1>' not in page
  assert '&lt;class 1&gt;' in page and '\\u003cclass 1>' in page


def test_figures_for_papers(made):
  _, workdir = made
  names = {path.name for path in workdir.report.iterdir()}
  svgs = {'accuracy', 'retrieval', 'training', 'cascade', 'oracle'}
  svgs |= {'calibration', 'structure', 'few_shot'}
  assert names == {
    'index.html', 'saliency.png', *(f'{name}.svg' for name in svgs)
  }  # fmt: skip
  texts = {}
  for name in svgs:
    text = (workdir.report / f'{name}.svg').read_text()
    assert '<svg' in text and '<text' in text
    texts[name] = text
  # 60 of 95 examples need the smallest width, 5 each of the others.
  assert '>63.2<' in texts['oracle'] and '>5.3<' in texts['oracle']
  assert '>2: 95.0 %<' in texts['calibration']
  assert '>10 neighbours (Jaccard)<' in texts['structure']
  assert '>5 examples of 10 classes<' in texts['few_shot']
