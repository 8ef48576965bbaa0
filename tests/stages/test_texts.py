"""All stages where the examples are texts."""

import json
import pathlib
import shutil

from flax import nnx
import numpy as np
import pytest

from configs import text_mrl
import mrl_jax
from mrl_jax import stages
from mrl_jax.data.text import sentences
from mrl_jax.data.text import tokens as tokens_lib
from mrl_jax.data.text.batches import TextBatches
from mrl_jax.data.text.mix import Mix
from mrl_jax.interop.text import hand_over
from mrl_jax.models import bert
from mrl_jax.models import text as text_models
from mrl_jax.stages.text import inputs as text_inputs
from mrl_jax.training import sharding
from tests.processes import run_until_killed

STAGES = ('train', 'evaluate', 'report')


def write_pairs(path, count=130, seed=0):
  rows = [
    {'anchor': a, 'positive': b, 'extra': 'no'}
    for a, b in sentences.pairs(count, seed)
  ]
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))


def write_scored(path, names=('sentence1', 'sentence2', 'score')):
  rows = [','.join(names)]
  rows += [f'"{a}","{b}",{score:g}' for a, b, score in sentences.scored(60, 1)]
  path.write_text('\n'.join(rows) + '\n')


def shrunk(folder):
  """`text_mrl` on 130 pairs, in 2 epochs of 4 steps, on one device."""
  write_pairs(folder / 'pairs.jsonl')
  write_scored(folder / 'sts.csv')
  config = text_mrl.get_config()
  config.mesh.data = 1
  config.dataset = str(folder / 'pairs.jsonl')
  config.eval_sets = (f'sts:{folder}/sts.csv', f'near=sts:{folder}/sts.csv')
  config.nesting_dims, config.eval_dims = (4, 16), (8,)
  config.text.width, config.text.vocabulary_size = 16, 300
  config.batch_size, config.num_epochs = 32, 2
  config.log_every_steps = 2
  config.eval_every_epochs = config.checkpoint_every_epochs = 1
  return config


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  """A workdir through which all stages have run, and its config."""
  folder = tmp_path_factory.mktemp('texts')
  config = shrunk(folder)
  stages.run(config, folder / 'run', STAGES)
  return config, folder / 'run'


def rows_of(path):
  text = (path / 'metrics.jsonl').read_text()
  return [json.loads(line) for line in text.splitlines()]


def test_all_stages_run_once(finished, capsys):
  config, path = finished
  rows = rows_of(path)
  assert rows[0]['train/examples_per_second'] > 0
  last = rows[-1]
  assert last['step'] == 8
  for width in (4, 8, 16):
    assert last[f'near/spearman@{width}'] == last[f'sts/spearman@{width}']
  # Training measures the nesting dims after each epoch.
  assert sum('sts/spearman@16' in row for row in rows) == 3
  record = json.loads((path / 'evaluation' / 'sts.json').read_text())
  assert record['values']['sts/pearson@8'] == last['sts/pearson@8']
  assert (path / 'evaluation' / 'near.csv').read_text().startswith('width,')
  stages.run(config, path, STAGES)
  said = capsys.readouterr().out
  assert said.count('already finished') == 3


def test_the_page_shows_quality_by_width(finished):
  _, path = finished
  page = (path / 'report' / 'index.html').read_text()
  for text in (
    'of the Spearman correlation on sts.',
    'sts: Spearman correlation',
    'near: Spearman correlation',
    '60 pairs with scores',
    'All metrics of sts, %',
    'plot-quality',
    'plot-loss',
  ):
    assert text in page, text
  assert 'Grad-CAM' not in page.rpartition('</script>')[2]


def test_another_set_is_measured_again(finished, capsys):
  config, path = finished
  other = config.copy_and_resolve_references()
  folder = path.parent
  write_scored(folder / 'other.csv', ('a', 'b', 'c'))
  # The scores are six numbers, and may be classes.
  other.eval_sets = (
    f'other=sts:{folder}/other.csv?columns=a,b,c',
    f'classification:{folder}/other.csv?columns=a,c&train={folder}/other.csv',
  )
  other.knn = 3
  stages.run(other, path, ('evaluate', 'report'))
  said = capsys.readouterr().out
  assert 'evaluate: other, 60 pairs' in said
  assert 'classification, 60 texts by 60 labelled ones' in said
  assert rows_of(path)[-1]['other/spearman@16'] != 0
  assert rows_of(path)[-1]['classification/knn1@16'] > 90
  page = (path / 'report' / 'index.html').read_text()
  assert 'classification: accuracy of a linear classifier' in page
  assert '3-NN' in page
  stages.run(config, path, ('evaluate', 'report'))


def test_a_killed_training_goes_on_to_the_same_bits(finished, tmp_path):
  config, path = finished
  run_until_killed(
    'from tests.stages import test_texts\n'
    'test_texts.train(sys.argv[1], sys.argv[2])\n',
    path.parent,
    tmp_path / 'run',
    step=6,
  )
  there = stages.open_workdir(config, path)
  killed = stages.open_workdir(config, tmp_path / 'run')
  assert killed.latest_step() == 4
  stages.run(config, tmp_path / 'run', ('train',))
  assert killed.checkpoint(8) == there.checkpoint(8)
  without_times = lambda path: [
    {name: x for name, x in row.items() if name not in TIMES}
    for row in rows_of(path)
    if not any(name.endswith('@8') for name in row)
  ]
  assert without_times(tmp_path / 'run') == without_times(path)


TIMES = ('train/examples_per_second', 'train/input_wait')


def train(folder, workdir):
  stages.run(shrunk(pathlib.Path(folder)), workdir, ('train',))


def test_other_texts_are_refused(finished, tmp_path):
  config, path = finished
  other = config.copy_and_resolve_references()
  other.num_epochs = 3
  other.dataset = str(tmp_path / 'pairs.jsonl')
  write_pairs(tmp_path / 'pairs.jsonl', seed=9)
  with pytest.raises(ValueError, match=r'num_epochs is 2 there'):
    stages.run(other, path, ('train',))


def write_encoder(path):
  """A folder of a tiny BERT, with a tokenizer made of the sentences."""
  texts = [text for pair in sentences.pairs(200, 0) for text in pair]
  tokens_lib.make_tokenizer(texts, 400, path.parent / 'tokenizer.json')
  variant = bert.Variant(
    vocabulary_size=400, width=16, depth=1, num_heads=2, hidden=8, max_tokens=40
  )
  encoder = text_models.create(text_models.Settings(variant), rngs=nnx.Rngs(0))
  hand_over.write(path, encoder, path.parent / 'tokenizer.json', (16,))


def test_a_pretrained_encoder_goes_in_and_out(tmp_path, capsys):
  write_encoder(tmp_path / 'bert')
  config = shrunk(tmp_path)
  config.encoder, config.init_from = 'pretrained', str(tmp_path / 'bert')
  config.num_epochs, config.peak_epoch = 1, 0.0
  config.learning_rate, config.text.max_tokens = 1e-30, 40
  config.text.prompts = ('find: ', '')
  stages.run(config, tmp_path / 'run', ('train', 'evaluate', 'export'))
  assert f'train: starts from {tmp_path}/bert' in capsys.readouterr().out
  texts = ['A girl is singing.', 'At night, a man sleeps.']
  before = mrl_jax.load(tmp_path / 'bert').encode(texts)
  exported = mrl_jax.load(tmp_path / 'run' / 'export')
  np.testing.assert_allclose(exported.encode(texts), before, atol=1e-6)
  assert exported.nesting_dims == (4, 16)
  assert exported.prompts == {'query': 'find: ', 'document': ''}
  # The settings are in the workdir: the folder may go, and a run may begin
  # where this one ended.
  shutil.rmtree(tmp_path / 'bert')
  config.init_from = str(tmp_path / 'run')
  stages.run(config, tmp_path / 'again', ('train',))
  assert f'starts from {tmp_path}/run/checkpoints/4' in capsys.readouterr().out
  config.init_from = str(tmp_path)
  with pytest.raises(ValueError, match='needs a folder of Hugging Face or'):
    stages.run(config, tmp_path / 'third', ('train',))


def test_encoders_that_do_not_fit_end_in_one_line(tmp_path):
  config = shrunk(tmp_path)
  config.encoder, config.init_from = 'pretrained', str(tmp_path / 'bert')
  config.text.max_tokens = 40
  write_encoder(tmp_path / 'bert')
  # A tokenizer of more tokens than the encoder has embeddings of.
  path = tmp_path / 'tokenizer.json'
  content = json.loads(path.read_text())
  content['model']['vocab']['more'] = 400
  path.write_text(json.dumps(content))
  config.text.tokenizer = str(path)
  match = r'tokenizer\.json has 401 token ids, and the encoder 400: take'
  with pytest.raises(ValueError, match=match):
    stages.run(config, tmp_path / 'run', ('train',))
  path = tmp_path / 'bert' / 'config.json'
  (tmp_path / 'bert' / 'checksums.json').unlink()
  other = {'model_type': 't5', 'architectures': ['T5Model']}
  path.write_text(json.dumps(json.loads(path.read_text()) | other))
  with pytest.raises(ValueError, match=r't5 \(T5Model\), which is no text'):
    stages.run(config, tmp_path / 'other', ('train',))


def test_empty_and_endless_texts_are_counted_and_said(tmp_path, capsys):
  config = shrunk(tmp_path)
  with open(config.dataset, 'a') as file:
    for a, b in (('dogs ' * 100_000, 'a dog'), ('', 'a cat'), ('a cat', ' ')):
      file.write(json.dumps({'anchor': a, 'positive': b}) + '\n')
  (source,) = text_inputs.open_training(config)
  tokens_lib.make_tokenizer(source.texts[:99], 400, tmp_path / 'tokenizer.json')
  tokens = tokens_lib.Tokens(tmp_path / 'tokenizer.json', 128)
  mix = Mix([source], batch_size=32, seed=0)
  TextBatches(mix, tokens, mesh=sharding.make_mesh(1))
  text_inputs.say_truncated(tokens, 'train')
  said = capsys.readouterr().out
  assert '131 pairs' in said and '2 with an empty text are left out' in said
  assert 'train: 1 of 262 texts are cut to max_tokens=128' in said


@pytest.mark.parametrize(
  'objective', ['cosent', 'classification', 'distillation']
)
def test_other_objectives_train(objective, tmp_path, capsys):
  config = shrunk(tmp_path)
  config.dataset, config.num_epochs = str(tmp_path / 'sts.csv'), 1
  config.peak_epoch = 0.0
  config.batch_size, config.micro_batches = 16, 2
  config.text.objective = objective
  config.text.columns = ('sentence1', 'sentence2')
  config.text.prompts = ('query: ',)
  if objective == 'classification':
    config.head = 'mrl'
    config.text.columns, config.text.target = ('sentence1',), 'score'
  if objective == 'distillation':
    config.text.columns = ('sentence1',)
    config.text.teacher = str(tmp_path / 'teacher.npy')
    teacher_NE = np.random.default_rng(0).normal(size=(60, 8))
    np.save(tmp_path / 'teacher.npy', teacher_NE)
    with pytest.raises(ValueError, match=r'teacher\.npy: is of width 8, and'):
      stages.run(config, tmp_path / 'run', ('train',))
    config.text.similarity_share = 1.0
  config.text.max_tokens = 12
  stages.run(config, tmp_path / 'run', ('train', 'evaluate'))
  said = capsys.readouterr().out
  kind = {'cosent': 'scored', 'classification': 'labelled'}.get(
    objective, 'taught'
  )
  assert f'train: 60 {kind} of {config.dataset}' in said
  assert 'texts are cut to max_tokens=12' in said
  assert '% padding' in said


@pytest.mark.parametrize(
  'change, match',
  [
    ({'text.objective': 'other'}, "objective 'other': must be one of"),
    ({'text.temperature': 0.0}, 'temperature 0.0: must be positive'),
    ({'text.temperature': float('inf')}, 'temperature inf'),
    ({'text.score_range': (5.0, 0.0)}, 'score_range .*lower first'),
    ({'text.max_tokens': 0}, 'max_tokens 0'),
    ({'text.dropout': 1.0}, r'dropout 1\.0: must be in \[0, 1\), or -1'),
    ({'text.similarity_share': 2.0}, r'share 2\.0: must be in \[0, 1\]'),
    ({'text.objective': 'distillation'}, "teacher '': must be given for"),
    ({'text.more': ('a?teacher=b',)}, "'teacher' must be columns or range"),
    ({'text.prompts': (1,)}, r'prompts \(1,\): must be a list of texts'),
    ({'encoder': 'resnet50'}, "encoder 'resnet50': must be one of"),
    ({'head': 'mrl'}, "head 'mrl': must be 'none'"),
    ({'nesting_dims': (8, 512)}, '512 is beyond the embedding width 256'),
    ({'dataset': 'nowhere.jsonl'}, r'nowhere\.jsonl: must be a file'),
    ({'text.columns': ('anchor',)}, r"\('anchor',\): must be 2 or more"),
    ({'text.columns': ('anchor', 'key')}, "no column 'key'; there are: anchor"),
    ({'text.tokenizer': 'no.json'}, r'no\.json: there is no such file'),
    ({'text.weights': (1.0, 2.0)}, '1 datasets need one each'),
    ({'text.more': ('cosent:a', 'angle:a')}, 'angle, contrastive, cosent can'),
    ({'text.more': ('classification:a',)}, 'cannot be in one training'),
    ({'text.more': ('a?rows=3',)}, "text.more 'a.rows=3': 'rows' must be col"),
    ({'text.more': ('cosent:?range=0,1',)}, r'must be \[objective:\]path'),
    ({'eval_sets': ('sts:no.csv',)}, r'no\.csv: must be a file'),
    ({'eval_sets': ('sts=no.csv',)}, r"eval_sets 'sts=no\.csv'"),
    ({'batch_size': 512}, 'batch_size 512: there are only 130'),
  ],
)
def test_bad_configs_end_in_one_line(change, match, tmp_path):
  config = text_mrl.get_config()
  write_pairs(tmp_path / 'pairs.jsonl')
  config.dataset = str(tmp_path / 'pairs.jsonl')
  config.batch_size = 8
  config.update_from_flattened_dict(change)
  with pytest.raises(ValueError, match=match) as error:
    stages.run(config, tmp_path / 'run', ('train',))
  assert '\n' not in str(error.value)


def test_stages_that_texts_do_not_have(tmp_path):
  with pytest.raises(ValueError, match="stage 'analyze': for texts one of"):
    stages.run(shrunk(tmp_path), tmp_path / 'run', ('analyze',))


def test_a_static_encoder_is_exported(finished):
  config, path = finished
  stages.run(config, path, ('export',))
  found = mrl_jax.load(path / 'export').encode(['At night, a man sleeps.'])
  assert found.shape == (1, 16)


def test_a_mix_of_datasets_trains(tmp_path, capsys):
  config = shrunk(tmp_path)
  write_pairs(tmp_path / 'more.jsonl', 40, seed=2)
  path = tmp_path / 'scored.csv'
  path.write_text('\n'.join(f'a man,{"so " * i},{i % 5}' for i in range(1, 41)))
  scored = f'cosent:{path}?columns=0,1,2&range=0,4'
  config.text.more = (str(tmp_path / 'more.jsonl'), scored)
  config.text.weights = (0.5, 0.5, 0.5)
  config.num_epochs, config.peak_epoch = 1, 0.0
  stages.run(config, tmp_path / 'run', ('train',))
  said = capsys.readouterr().out
  assert 'train: 40 pairs of' in said and f'train: 40 scored of {path}' in said
  assert rows_of(tmp_path / 'run')[-1]['step'] == 6
