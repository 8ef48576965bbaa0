"""All stages where the examples are pictures with captions."""

import json

from flax import nnx
import jax
from ml_collections import ConfigDict
import numpy as np
from PIL import Image
import pytest

from configs import emoji_clip_mrl
import mrl_jax
from mrl_jax import stages
from mrl_jax.interop.text import folder as text_folder
from mrl_jax.models import static_text
from mrl_jax.models import text as text_models
from mrl_jax.stages import check
from mrl_jax.stages.pairs import build
from mrl_jax.stages.pairs import start
from mrl_jax.training import fingerprint
from mrl_jax.training.checkpoint import Checkpoints
from mrl_jax.training.state import arrays_of
from tests.interop import test_towers_hand_over
from tests.processes import run_until_killed
from tests.stages import test_texts

STAGES = ('train', 'evaluate', 'report', 'export')
COLORS = {'red': (250, 20, 20), 'green': (20, 220, 20), 'blue': (20, 20, 240)}


def write_pairs(folder, count, seed):
  """Squares of a colour in its class folder, and a table of captions."""
  rng, lines = np.random.default_rng(seed), []
  for i in range(count):
    name = [*COLORS][i % 3]
    path = folder / name / f'{i:02}.png'
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = rng.integers(-20, 21, (8, 8, 3))
    pixels = np.clip(noise + COLORS[name], 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    captions = [f'a {name} square', f'{name} number {i}']
    row = {'file_name': f'{name}/{i:02}.png', 'text': captions}
    lines.append(json.dumps(row) + '\n')
  (folder / 'metadata.jsonl').write_text(''.join(lines))


def shrunk(folder):
  """`emoji_clip_mrl` on 24 pictures, in 2 epochs of 3 steps, on two devices."""
  if not (folder / 'data').exists():
    write_pairs(folder / 'data' / 'train', 24, 0)
    write_pairs(folder / 'data' / 'val', 12, 1)
  config = emoji_clip_mrl.get_config()
  config.mesh.data = 2
  config.dataset = str(folder / 'data' / 'train')
  config.eval_sets = (
    f'names=retrieval:{folder}/data/val?shortlist=10&words=a red square',
    f'kinds=zero_shot:folder:{folder}/data@val?neighbors=train'
    '&templates={}|a {} square',
  )
  config.image_size = config.eval_resize = config.eval_image_size = 8
  config.nesting_dims, config.eval_dims = (2, 8), (4,)
  config.batch_size, config.num_epochs, config.peak_epoch = 8, 2, 0.5
  config.log_every_steps = 2
  config.eval_every_epochs = config.checkpoint_every_epochs = 1
  config.eval_batch_size = 16
  config.pairs.width, config.pairs.text_width = 8, 16
  config.pairs.vocabulary_size = 64
  return config


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  """A workdir through which all stages have run, and its config."""
  folder = tmp_path_factory.mktemp('pairs')
  config = shrunk(folder)
  stages.run(config, folder / 'run', STAGES)
  return config, folder / 'run'


def test_all_stages_run_once(finished, capsys):
  config, path = finished
  rows = test_texts.rows_of(path)
  assert rows[0]['train/pairs_per_second'] > 0
  assert rows[0]['train/scale@2'] > 0 and rows[0]['train/scale@8'] > 0
  last = rows[-1]
  assert last['step'] == 6
  for width in (2, 4, 8):
    for name in ('t2i_recall1', 'i2t_recall10', 'cosine_of_pairs'):
      assert f'names/{name}@{width}' in last
    assert 0 <= last[f'kinds/zero_shot@{width}'] <= 100
    assert last[f'kinds/knn1@{width}'] > 60  # Colours are easily told.
  assert 'names/t2i_adaptive10@4' in last
  record = json.loads((path / 'evaluation' / 'names.json').read_text())
  assert record['count'] == 12
  for width in ('2', '8'):
    (search,) = record['searches'][width]
    assert search['words'] == 'a red square' and len(search['found']) == 5
    assert search['cosines'] == sorted(search['cosines'], reverse=True)
    assert {*map(str, search['found'])} <= {*record['pictures']}
    places = [record['map'][x][width] for x in ('images', 'texts')]
    assert np.shape(places) == (2, 12, 2)
  assert len(record['map']['names']) == 12
  kinds = json.loads((path / 'evaluation' / 'kinds.json').read_text())
  assert not kinds['searches'] and not kinds['map']
  assert (path / 'evaluation' / 'kinds.csv').read_text().startswith('width,')
  stages.run(config, path, STAGES)
  assert capsys.readouterr().out.count('already finished') == 4


def test_the_page(finished):
  _, path = finished
  page = (path / 'report' / 'index.html').read_text()
  for text in (
    'of the text-to-image recall@10 on names.',
    'names: texts find their image, recall@10',
    'names: images find a text, recall@10',
    'kinds: zero-shot top-1',
    'Search by words',
    'a red square (width 2)',
    'src="data:image/jpeg;base64,',
    'Images and texts in one plane',
    'plot-map-8',
    'plot-adaptive',
    'an image and its text have a mean cosine of',
    'plot-loss',
  ):
    assert text in page, text


def test_an_export_is_what_was_evaluated(finished):
  _, path = finished
  encoder = mrl_jax.load(path)
  assert (encoder.width, encoder.nesting_dims) == (8, (2, 8))
  names = sorted(COLORS)
  images = sorted((path.parent / 'data' / 'val').glob('*/*.png'))
  right = [names.index(x.parent.name) for x in images]
  last = test_texts.rows_of(path)[-1]
  for dim in (2, 4, 8):
    found = encoder.zero_shot(
      images, names, dim, templates=('{}', 'a {} square')
    )
    accuracy = 100 * np.mean(found.classes_NK[:, 0] == right)
    np.testing.assert_allclose(accuracy, last[f'kinds/zero_shot@{dim}'])
  assert found.names[0][0] in names and (found.dims_N == 8).all()
  # The cosines of pairs.
  texts = [f'a {x.parent.name} square' for x in images]
  cosine_N = (encoder.encode(images, 4) * encoder.encode_text(texts, 4)).sum(1)
  np.testing.assert_allclose(
    cosine_N.mean(), last['names/cosine_of_pairs@4'], atol=1e-5
  )
  with pytest.raises(ValueError, match="template 'a': must have"):
    encoder.zero_shot(images, names, templates=('a',))
  with pytest.raises(ValueError, match='dim 9: must be in'):
    encoder.encode_text('a', 9)
  with pytest.raises(ValueError, match='must be a list of names'):
    encoder.zero_shot(images, 'red')


def test_the_card(finished):
  _, path = finished
  text = (path / 'export' / 'README.md').read_text()
  last = test_texts.rows_of(path)[-1]
  row = [last[f'names/{x}_recall10@4'] for x in ('t2i', 'i2t')]
  assert f'| 4 | {row[0]:.2f} | {row[1]:.2f} |' in text
  words = ' '.join(text.split())
  for part in (
    "steps by CLIP's contrastive loss at the widths 2, 8.",
    'In percent, on kinds, 12 images. | width | zero-shot top-1 | 1-NN |',
    '- a red square: a ',
    'towers.zero_shot(images, ',
    'transformers has no such towers',
  ):
    assert part in words, part
  assert max(map(len, text.splitlines())) <= 100


def test_a_killed_training_goes_on_to_the_same_bits(finished, tmp_path):
  config, path = finished
  # Without what is measured between epochs, which takes no part in training.
  config = config.copy_and_resolve_references()
  config.eval_sets = ()
  run_until_killed(
    'import pathlib\n'
    'import tests.conftest\n'
    'from tests.stages import test_pairs\n'
    'from mrl_jax import stages\n'
    'config = test_pairs.shrunk(pathlib.Path(sys.argv[1]))\n'
    'config.eval_sets = ()\n'
    'stages.run(config, sys.argv[2], ("train",))\n',
    path.parent,
    tmp_path / 'run',
    step=5,
  )
  there = stages.open_workdir(config, path)
  killed = stages.open_workdir(config, tmp_path / 'run')
  assert killed.latest_step() == 3
  stages.run(config, tmp_path / 'run', ('train',))
  assert killed.checkpoint(6) == there.checkpoint(6)


def test_towers_start_from_a_run_and_one_is_frozen(finished, capsys):
  _, path = finished
  config = shrunk(path.parent)
  config.init_from.image = config.init_from.text = str(path)
  config.pairs.frozen = ('image',)
  check.check(config)
  model = build.model(config)
  start.initialise(config, model)
  said = capsys.readouterr().out
  found, directory = arrays_of(model), path / 'checkpoints'
  with Checkpoints(directory) as checkpoints:
    there = checkpoints.restore_model(checkpoints.model_shapes(6), 6)
  for name in ('image', 'text'):
    assert f'train: the {name} tower starts from {path}' in said
    for kind in there:
      ours, theirs = (
        fingerprint.by_path(x[kind].get(name, {})) for x in (found, there)
      )
      assert {*ours} == {*theirs} and (ours or kind == 'batch_stats')
      for key, x in ours.items():
        np.testing.assert_array_equal(x, theirs[key])
  assert start.tokenizer(config) == str(path / 'tokenizer.json')
  # Neither the optimizer nor its decay touches the frozen tower.
  assert build.trainable(config, model) == (
    'image_projection', 'log_scale', 'text', 'text_projection',
  )  # fmt: skip


def test_towers_start_from_a_folder_of_clip(tmp_path):
  made = test_towers_hand_over.make('contrastive')
  test_towers_hand_over.write(made, tmp_path)
  fresh = test_towers_hand_over.make('contrastive', seed=1)
  config = ConfigDict({'nesting_dims': (4, 16)})
  config.init_from = ConfigDict({'image': str(tmp_path), 'text': str(tmp_path)})
  config.pairs = ConfigDict({'text': 'clip'})
  start.initialise(config, fresh)
  found, expected = (arrays_of(x)['params'] for x in (fresh, made))
  # Every width begins with the folder's temperature.
  np.testing.assert_array_equal(found.pop('log_scale'), [2.0, 2.0])
  expected.pop('log_scale')
  jax.tree.map(np.testing.assert_array_equal, found, expected)
  assert start.tokenizer(config) == str(tmp_path / 'tokenizer.json')
  config.init_from.image = ''
  other = test_towers_hand_over.make('sigmoid')
  other.text = text_models.create(
    text_models.Settings(static_text.Variant(9, 12)), rngs=nnx.Rngs(0)
  )
  with pytest.raises(ValueError, match=r'init_from\.text .*: another encoder'):
    start.initialise(config, other)


def test_a_text_tower_from_a_folder_of_texts(tmp_path):
  test_texts.write_encoder(tmp_path / 'bert')
  config = shrunk(tmp_path)
  config.pairs.text, config.init_from.text = (
    'pretrained',
    str(tmp_path / 'bert'),
  )
  check.check(config)
  model = build.model(config)
  start.initialise(config, model)
  loaded = text_folder.open_folder(tmp_path / 'bert').load()
  jax.tree.map(
    np.testing.assert_array_equal, arrays_of(model.text), arrays_of(loaded)
  )
  assert start.tokenizer(config) == str(tmp_path / 'bert' / 'tokenizer.json')


@pytest.mark.parametrize(
  'change, match',
  [
    ({'pairs.objective': 'other'}, "objective 'other': must be one of"),
    ({'pairs.text': 'gpt'}, "pairs.text 'gpt': must be one of"),
    (
      {'eval_sets': ('zero_shot:a@b?templates={}|a photo',)},
      "template 'a photo': must have",
    ),
    (
      {'eval_sets': ('zero_shot:a@b?templates=no.txt',)},
      r'templates .*no\.txt: there is no such file',
    ),
    ({'eval_sets': ('zero_shot:a@b?k=3',)}, "'k=3' must be one of neighbors="),
    ({'eval_sets': ('retrieval:a?shortlist=x',)}, 'shortlist must be a number'),
    ({'pairs.projections': ()}, 'images have 64 here, and texts 16'),
    ({'pairs.projections': ('both',)}, r"projections \('both',\): must be of"),
    ({'pairs.frozen': ('image',)}, "init_from.image '': must be given, as the"),
    ({'pairs.max_tokens': 0}, 'max_tokens 0: must be a number of at least 1'),
    ({'pairs.text': 'pretrained'}, "init_from.text '': must be given"),
    ({'head': 'mrl'}, "head 'mrl': must be 'none' for pairs"),
    ({'micro_batches': 2}, 'micro_batches 2: must be 1 for pairs'),
    ({'nesting_dims': (2, 9)}, '9 is beyond the embedding width 8'),
    ({'eval_sets': ('sts:x',)}, "eval_sets 'sts:x': must be"),
    ({'eval_sets': ('zero_shot:x',)}, "eval_sets 'zero_shot:x': must be"),
    ({'eval_sets': ('retrieval:x',) * 2}, "the name 'retrieval' stands twice"),
    ({'eval_sets': ('retrieval:nowhere',)}, 'pairs nowhere: must be a folder'),
    ({'dataset': 'nowhere'}, 'pairs nowhere: must be a folder of pictures'),
    ({'dataset': 'no-*.tar'}, r'pairs no-\*\.tar: there is no such tar'),
    ({'pairs.tokenizer': 'no.json'}, r'no\.json: there is no such file'),
    ({'init_from.image': 'nowhere'}, "init_from 'nowhere': must be a workdir"),
    ({'batch_size': 32}, 'batch_size 32: there are only 24'),
  ],
)
def test_bad_configs_end_in_one_line(change, match, finished, tmp_path):
  config = shrunk(finished[1].parent)
  config.update_from_flattened_dict(change)
  with pytest.raises(ValueError, match=match) as error:
    stages.run(config, tmp_path / 'run', ('train',))
  assert '\n' not in str(error.value)


def test_what_has_no_partner_is_said(tmp_path, capsys):
  write_pairs(tmp_path / 'data' / 'train', 9, 0)
  write_pairs(tmp_path / 'data' / 'val', 6, 0)
  (tmp_path / 'data' / 'train' / 'red' / '00.png').unlink()
  table = tmp_path / 'data' / 'train' / 'metadata.jsonl'
  rows = table.read_text().splitlines(keepends=True)
  table.write_text(''.join(rows[:-1]))
  config = shrunk(tmp_path)
  with pytest.raises(ValueError, match='batch_size 8: there are only 7'):
    stages.run(config, tmp_path / 'run', ('train',))
  said = capsys.readouterr().out
  assert 'left out: 1 captions without picture: red/00.png' in said
  assert 'left out: 1 pictures without caption: blue/08.png' in said
