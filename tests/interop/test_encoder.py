"""What --mode=export writes, and what comes out of it."""

import json
import pathlib
import shutil
import subprocess
import sys

import chex
from flax import nnx
import jax
import numpy as np
from PIL import Image
import pytest
import safetensors

from configs import default
import mrl_jax
from mrl_jax import stages
from mrl_jax.analysis import cascade
from mrl_jax.analysis.cascade import Cascade
from mrl_jax.data.batches import evaluation
from mrl_jax.data.batches.damage import DamageLog
from mrl_jax.interop import classify
from mrl_jax.interop import model_card
from mrl_jax.interop.pytorch import file as torch_file
from mrl_jax.interop.pytorch import load
from mrl_jax.stages import build
from mrl_jax.stages import export
from mrl_jax.stages import export_records
from mrl_jax.stages import inputs
from mrl_jax.stages import recorded
from mrl_jax.stages import trained as trained_lib
from mrl_jax.training import fingerprint
from mrl_jax.training.checkpoint import Checkpoints
from mrl_jax.training.state import arrays_of
from mrl_jax.workdir import embeddings
from mrl_jax.workdir import files
from mrl_jax.workdir import predictions
from tests import images

RULE = Cascade((2, 8, 64), (0.55, 0.6), temperature=0.5)
SIZES = ((24, 20), (9, 31), (40, 40))


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
  """The config and workdir of a run on images of several sizes."""
  from tests import conftest

  root = images.write_folder(tmp_path_factory.mktemp('images'))
  for seed, size in enumerate(SIZES):
    path = root / f'val/cat/{200 + seed}.jpg'
    path.write_bytes(images.encoded(seed, size=size, image_format='JPEG'))
  (root / 'val/dog/grey.png').write_bytes(images.encoded(7, mode='L'))
  config = conftest.shrunk('')
  config.update(
    dataset=f'folder:{root}',
    train_split='train',
    eval_split='val',
    batch_size=3,
    num_epochs=1,
    peak_epoch=0.0,
    eval_resize=10,
    eval_dims=(5,),
  )
  path = tmp_path_factory.mktemp('run')
  stages.run(config, path, ('train', 'evaluate'))
  workdir = stages.open_workdir(config, path)
  # As analyze writes it, for which these images are too few.
  rule = {'step': workdir.latest_step(), **RULE._asdict()}
  files.write_json(workdir.analysis / 'cascade.json', rule)
  stages.run(config, path, ('export',))
  return config, workdir


@pytest.fixture(scope='module')
def encoder(exported):
  return mrl_jax.load(exported[1].path)


def paths_of(config):
  """The images of the evaluation split, in its order."""
  source = recorded.open_split(config, config.eval_split)
  root = pathlib.Path(source.folder)
  return source, [root / source.read(index).key for index in range(len(source))]


def test_encode_is_the_model(exported, encoder):
  config, workdir = exported
  _, paths = paths_of(config)
  expected_ND, _, _ = embeddings.load(workdir.embeddings, 'val')
  whole_ND = encoder.encode(paths, normalize=False)
  assert (whole_ND.shape, whole_ND.dtype) == ((10, 64), np.float32)
  np.testing.assert_allclose(whole_ND, expected_ND, rtol=1e-6, atol=1e-6)
  # Sliced, then normalised.
  prefix_Nd = expected_ND[:, :5]
  norm_N1 = np.linalg.norm(prefix_Nd, axis=1, keepdims=True)
  short_Nd = encoder.encode(paths, dim=5)
  np.testing.assert_allclose(short_Nd, prefix_Nd / norm_N1, rtol=1e-5)


@pytest.mark.parametrize('resize', [10, 8, 30])
def test_images_are_prepared_as_in_the_evaluation(
  exported, encoder, monkeypatch, resize
):
  monkeypatch.setitem(encoder.preprocess, 'resize', resize)
  source, paths = paths_of(exported[0])
  damage = DamageLog(0)
  for index, path in enumerate(paths):
    expected, _ = evaluation.view(
      source, index, resize=resize, size=8, damage=damage
    )
    rgb = np.asarray(Image.open(path).convert('RGB'))
    for image in (path, str(path), path.read_bytes(), Image.open(path), rgb):
      np.testing.assert_array_equal(encoder.view(image), expected)


def test_one_image_and_many(exported, encoder):
  _, paths = paths_of(exported[0])
  arrays = [np.asarray(Image.open(path).convert('RGB')) for path in paths]
  expected_ND = encoder.encode(paths)
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
  close(encoder.encode(arrays, batch_size=3), expected_ND)
  close(encoder.encode(paths[0]), expected_ND[:1])
  close(encoder.encode(arrays[0]), expected_ND[:1])
  same = [0, 3]
  assert arrays[0].shape == arrays[3].shape
  stacked_NHWC = np.stack([arrays[i] for i in same])
  close(encoder.encode(stacked_NHWC), expected_ND[same])
  close(encoder.encode(jax.numpy.asarray(stacked_NHWC)), expected_ND[same])
  assert encoder.encode([], dim=8).shape == (0, 8)


def test_classes_are_those_of_the_evaluation(exported, encoder):
  config, workdir = exported
  _, paths = paths_of(config)
  saved = predictions.load(workdir.predictions, 'val', (2, 8, 64))
  for g, dim in enumerate((2, 8, 64)):
    found = encoder.classify(paths, dim, top=2, batch_size=4)
    np.testing.assert_array_equal(
      found.classes_NK[:, 0], saved.prediction_GN[g]
    )
    np.testing.assert_array_equal(found.dims_N, dim)
    logits_NC = saved.logits_GNC[g].astype(np.float32)
    expected_NC = np.asarray(jax.nn.softmax(logits_NC))
    np.testing.assert_allclose(
      found.probabilities_NK, -np.sort(-expected_NC), atol=1e-3
    )
  # The last width, unless another is asked for; one image alone.
  found = encoder.classify(paths[0])
  assert (found.classes_NK.shape, found.dims_N.tolist()) == ((1, 1), [64])
  (name,) = found.names[0]
  assert name == ('cat', 'dog')[found.classes_NK[0, 0]]
  assert encoder.classify([]).probabilities_NK.shape == (0, 1)


def test_the_first_width_that_is_sure_decides(exported, encoder, tmp_path):
  config, workdir = exported
  _, paths = paths_of(config)
  logits_GNC = predictions.load(
    workdir.predictions, 'val', (2, 8, 64)
  ).logits_GNC
  sure_N = np.asarray(jax.nn.softmax(logits_GNC[0] / np.float32(0.5)).max(-1))
  own = RULE._replace(thresholds=(float(np.median(sure_N)), 0.6))
  cascade.save(tmp_path / 'mine.json', own)
  for given, rule in ((True, RULE), (own, own), (tmp_path / 'mine.json', own)):
    found = encoder.classify(paths, cascade=given)
    class_N, dim_N = cascade.predict(rule, logits_GNC)
    np.testing.assert_array_equal(found.dims_N, dim_N)
    np.testing.assert_array_equal(found.classes_NK[:, 0], class_N)
  assert {2} < {*dim_N.tolist()}
  # Of the rule's temperature: what was compared with its thresholds.
  first_N = dim_N == 2
  np.testing.assert_allclose(
    found.probabilities_NK[first_N, 0], sure_N[first_N], atol=1e-3
  )


def test_mirror_images_are_averaged(exported, encoder, monkeypatch):
  _, paths = paths_of(exported[0])
  view_NHWC = np.stack([encoder.view(path) for path in paths])
  embedding_ND = sum(map(encoder._embed, (view_NHWC, view_NHWC[:, :, ::-1])))
  logits_NC = encoder._heads.logits(embedding_ND / 2, 8)
  monkeypatch.setitem(encoder.config, 'eval_flip', True)
  found = encoder.classify(paths, 8)
  np.testing.assert_array_equal(found.classes_NK[:, 0], logits_NC.argmax(1))


@pytest.mark.parametrize(
  'kind, dims', [('mrl', (4, 16)), ('mrl_e', (4, 16)), ('fixed', (16,))]
)
def test_the_heads_of_every_kind(kind, dims, tmp_path):
  config = default.get_config()
  config.update(encoder='resnet8', dtype='float32', head=kind)
  config.nesting_dims = dims
  model = build.model(config, 3)
  graphdef, params, batch_stats = nnx.split(model, nnx.Param, nnx.BatchStat)
  trained = trained_lib.Trained(
    graphdef, *map(nnx.to_pure_dict, (params, batch_stats)), step=1, mesh=None
  )
  export._write_heads(tmp_path / 'heads.npz', trained)
  heads = classify.read(tmp_path / 'heads.npz', shared=kind == 'mrl_e')
  embedding_ND = np.random.default_rng(0).normal(size=(5, 64))
  embedding_ND = embedding_ND.astype(np.float32)
  expected_GNC = model.head(embedding_ND)
  if kind == 'mrl_e':
    # Its classifier is one of any width.
    dims = (3, 7)
    expected_GNC = model.head.at(embedding_ND, dims)
  for dim, expected_NC in zip(dims, expected_GNC, strict=True):
    found_NC = heads.logits(embedding_ND, dim)
    np.testing.assert_allclose(found_NC, expected_NC, rtol=1e-5, atol=1e-6)
  assert heads.num_classes == 3
  match = r'in \[1, 16\]' if kind == 'mrl_e' else r'one of \(.*16,?\)'
  with pytest.raises(ValueError, match=rf'dim 17.* must be {match}'):
    heads.logits(embedding_ND, 17)


@pytest.mark.parametrize(
  'kwargs, match',
  [
    ({'dim': 5}, r'dim 5 has no classifier: must be one of \(2, 8, 64\)'),
    ({'dim': 2, 'cascade': True}, 'dim 2 and a cascade: give one of them'),
    ({'cascade': Cascade((2, 5), (0.5,))}, 'dim 5 has no classifier'),
    ({'cascade': 'nowhere.json'}, 'nowhere.json is not there: --mode=analyze'),
    ({'top': 3}, r'top 3: must be in \[1, 2\]'),
    ({'top': 0}, 'top 0: must be'),
    ({'batch_size': 0}, 'batch_size 0: must be'),
  ],
)
def test_classes_that_cannot_be_given(encoder, kwargs, match):
  with pytest.raises(ValueError, match=match):
    encoder.classify(PIXELS, **kwargs)


def unsealed(folder):
  """Makes an export one from before there were checksums."""
  (folder / 'checksums.json').unlink(missing_ok=True)
  config = json.loads((folder / 'config.json').read_text())
  del config['checksums']
  files.write_json(folder / 'config.json', config)


def test_an_export_without_classes_names_the_stage(exported, tmp_path):
  """As those written before there were any."""
  shutil.copytree(exported[1].export, tmp_path / 'export')
  (tmp_path / 'export' / 'heads.npz').unlink()
  (tmp_path / 'export' / 'cascade.json').unlink()
  unsealed(tmp_path / 'export')
  with pytest.warns(UserWarning, match='export was written without checksums'):
    old = mrl_jax.load(tmp_path)
  assert not old.is_checked
  assert old.encode(PIXELS).shape == (4, 64)
  with pytest.raises(ValueError, match=r'heads\.npz .* run --mode=export'):
    old.classify(PIXELS)
  with pytest.raises(ValueError, match=r'cascade\.json .* --mode=analyze,exp'):
    old.classify(PIXELS, cascade=True)
  for content in (b'', b'PK', (exported[1].export / 'heads.npz').read_bytes()):
    (tmp_path / 'export' / 'heads.npz').write_bytes(content[:-200])
    with pytest.raises(ValueError, match=r'heads\.npz cannot be read'):
      mrl_jax.load(tmp_path).classify(PIXELS)


def test_a_flipped_bit_of_an_export_is_noticed(exported, tmp_path):
  folder = shutil.copytree(exported[1].export, tmp_path / 'export')
  assert mrl_jax.load(folder).is_checked
  rng = np.random.default_rng(0)
  for path in sorted({*folder.iterdir()} - {folder / 'README.md'}):
    whole = path.read_bytes()
    for place in rng.integers(0, 8 * len(whole), 20):
      damaged = bytearray(whole)
      damaged[place // 8] ^= 1 << place % 8
      path.write_bytes(damaged)
      with pytest.raises(ValueError, match='run --mode=export again') as error:
        mrl_jax.load(folder)
      assert path.name in str(error.value) and '\n' not in str(error.value)
    path.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match='run --mode=export again'):
      mrl_jax.load(folder)
    path.unlink()
    with pytest.raises(ValueError, match=path.name):
      mrl_jax.load(folder)
    path.write_bytes(whole)


def test_files_that_an_export_does_not_read_are_the_users(exported, tmp_path):
  """A model card is edited, and a hub adds files of its own."""
  folder = shutil.copytree(exported[1].export, tmp_path / 'export')
  expected = mrl_jax.load(folder).encode(PIXELS)
  (folder / '.gitattributes').write_text('')
  (folder / 'notes.txt').write_text('')
  (folder / 'README.md').write_text('# Mine')
  np.testing.assert_array_equal(mrl_jax.load(folder).encode(PIXELS), expected)
  (folder / 'README.md').unlink()
  assert mrl_jax.load(folder).is_checked


def test_an_open_export_reads_no_other_heads(exported, tmp_path):
  """Another may take its place while a server runs."""
  folder = shutil.copytree(exported[1].export, tmp_path / 'export')
  opened = mrl_jax.load(folder)
  np.savez(folder / 'heads.npz', kernel_64=np.zeros((64, 2)))
  with pytest.raises(ValueError, match=r'heads\.npz .* run --mode=export'):
    opened.classify(PIXELS)
  cascade.save(folder / 'cascade.json', RULE)
  with pytest.raises(ValueError, match=r'cascade\.json .* run --mode=export'):
    opened.classify(PIXELS, cascade=True)


def test_damaged_tensors_start_no_training(exported, tmp_path):
  folder = shutil.copytree(exported[1].export, tmp_path / 'export')
  path = folder / 'model.safetensors'
  damaged = bytearray(path.read_bytes())
  damaged[-3] ^= 1
  path.write_bytes(damaged)
  with pytest.raises(ValueError, match=r'model\.safetensors is not as it was'):
    torch_file.open_tensors(path)


def test_a_rule_of_another_step_is_left_out(exported, tmp_path, capsys):
  config, workdir = exported
  copy = stages.open_workdir(
    config, shutil.copytree(workdir.path, tmp_path / 'run')
  )
  path = copy.analysis / 'cascade.json'
  files.write_json(path, {'step': 1, **RULE._asdict()})
  export.run(config, copy, trained_lib.chosen(config, copy))
  assert f'{path} is not of step' in capsys.readouterr().out
  assert not (copy.export / 'cascade.json').exists()
  assert 'cascade' not in (copy.export / 'README.md').read_text()
  # A new one is one more file to write.
  assert copy.export / 'cascade.json' in export.outputs(config, copy)


ALONE = """
import sys
import numpy as np
from jax import export

path, out = sys.argv[1:]
with open(path, 'rb') as file:
  encoder = export.deserialize(bytearray(file.read()))
rng = np.random.default_rng(0)
for n in (1, 5):
  batch = rng.integers(0, 256, (n, 8, 8, 3), np.uint8)
  np.save(f'{out}/{n}.npy', np.asarray(encoder.call(batch)))
assert not {'mrl_jax', 'flax', 'torch'} & {*sys.modules}, 'imported'
"""


def test_the_artifact_needs_nothing_of_this_package(exported, tmp_path):
  config, workdir = exported
  command = [sys.executable, '-c', ALONE, workdir.export / 'encoder.stablehlo']
  subprocess.run([*command, tmp_path], check=True, cwd=tmp_path)
  mesh = jax.make_mesh((1,), ('data',), devices=jax.devices()[:1])
  chosen = trained_lib.chosen(config, workdir)
  trained = trained_lib.restore(config, workdir, chosen, 2, mesh=mesh)
  model = nnx.merge(trained.graphdef, trained.params, trained.batch_stats)
  model.eval()
  rng = np.random.default_rng(0)
  for n in (1, 5):
    batch = rng.integers(0, 256, (n, 8, 8, 3), np.uint8)
    expected_ND = model.encoder(inputs.normalize(config)(batch))
    np.testing.assert_allclose(
      np.load(tmp_path / f'{n}.npy'), expected_ND, rtol=1e-6, atol=1e-6
    )


def test_the_artifact_is_for_every_platform(exported):
  path = exported[1].export / 'encoder.stablehlo'
  artifact = jax.export.deserialize(bytearray(path.read_bytes()))
  assert artifact.platforms == ('cpu', 'cuda', 'rocm', 'tpu')
  assert str(artifact.in_avals[0]) == 'uint8[n,8,8,3]'


@pytest.mark.parametrize('name', ['convnext_tiny', 'vit_s16'])
def test_other_encoders_take_any_batch_size(name):
  config = default.get_config()
  config.update(encoder=name, image_size=16, eval_image_size=16)
  config.nesting_dims = (8,)
  model = build.model(config, 2)
  graphdef, params, batch_stats = nnx.split(model, nnx.Param, nnx.BatchStat)
  arrays = map(nnx.to_pure_dict, (params, batch_stats))
  trained = trained_lib.Trained(graphdef, *arrays, step=1, mesh=None)
  preprocess = export_records.preprocess(config)
  artifact = export._artifact(config, trained, preprocess)
  loaded = jax.export.deserialize(artifact)
  assert str(loaded.in_avals[0]) == 'uint8[n,16,16,3]'
  assert str(loaded.out_avals[0]) == f'float32[n,{model.encoder.num_features}]'


def test_the_card_and_the_numbers(exported):
  _, workdir = exported
  about = json.loads((workdir.export / 'config.json').read_text())
  assert about['nesting_dims'] == [2, 8, 64]
  assert about['class_names'] == ['cat', 'dog'] and about['num_classes'] == 2
  trained_on = about['trained_on']
  assert (trained_on['name'], trained_on['version']) == ('folder', '1.0.0')
  assert all(len(digest) == 16 for digest in trained_on['splits'].values())
  assert about['accuracy'].keys() == {'2', '5', '8', '64'}
  assert about['accuracy']['64'].keys() == {'top1', 'top5', 'knn1'}
  assert about['accuracy']['5'].keys() == {'knn1'}
  lines = [*map(json.loads, workdir.metrics.read_text().splitlines())]
  knn1 = [line['val/knn1@8'] for line in lines if 'val/knn1@8' in line]
  assert about['accuracy']['8']['knn1'] == pytest.approx(knn1[-1], abs=1e-3)
  preprocess = json.loads((workdir.export / 'preprocess.json').read_text())
  assert (preprocess['resize'], preprocess['size']) == (10, 8)
  assert preprocess['as_seen'] is True
  text = (workdir.export / 'README.md').read_text()
  assert 'classify(images, dim=8, top=2)' in text and 'cascade=True' in text
  assert "heads['kernel_8'] + heads['bias_8']" in text
  assert f'| 8 | {about["accuracy"]["8"]["top1"]:.2f} |' in text
  words = ' '.join(text.split())
  assert 'resized to 10 pixels' in words and 'square of 8' in words
  assert max(map(len, text.splitlines())) <= 80


def test_the_tensors_read_back_bit_for_bit(exported, tmp_path):
  config, workdir = exported
  path = workdir.export / 'model.safetensors'
  others = workdir.export / 'config.json'
  assert path.stat().st_mode == others.stat().st_mode  # Servers read it, too.
  model = build.model(config, 2)
  form, has_head = load.load(path, model, encoder='resnet8')
  assert has_head and form.family == 'ResNet'
  with Checkpoints(workdir.checkpoints) as checkpoints:
    step = checkpoints.latest_step
    saved = checkpoints.restore_model(checkpoints.model_shapes(step), step)
  chex.assert_trees_all_equal(
    fingerprint.by_path(arrays_of(model)), fingerprint.by_path(saved)
  )
  with safetensors.safe_open(path, 'np') as file:
    assert file.metadata()['nesting_dims'] == '2,8,64'
    assert file.metadata()['head'] == 'mrl'


def test_a_pytorch_model_loads_the_tensors(exported):
  """Strictly, and has the same embeddings and logits."""
  torch = pytest.importorskip('torch')
  from safetensors.torch import load_file

  config, workdir = exported
  module = torch_resnet8(torch, config.nesting_dims)
  module.load_state_dict(load_file(workdir.export / 'model.safetensors'))
  module.eval()
  mesh = jax.make_mesh((1,), ('data',), devices=jax.devices()[:1])
  chosen = trained_lib.chosen(config, workdir)
  trained = trained_lib.restore(config, workdir, chosen, 2, mesh=mesh)
  model = nnx.merge(trained.graphdef, trained.params, trained.batch_stats)
  model.eval()
  rng = np.random.default_rng(0)
  image_NHWC = rng.normal(size=(3, 8, 8, 3)).astype(np.float32)
  embedding_ND = model.encoder(image_NHWC)
  with torch.no_grad():
    found_ND, logits = module(torch.tensor(image_NHWC.transpose(0, 3, 1, 2)))
  np.testing.assert_allclose(found_ND, embedding_ND, rtol=1e-4, atol=1e-5)
  for found, expected in zip(logits, model.head(embedding_ND), strict=True):
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def torch_resnet8(torch, dims):
  """ResNet-8 by torchvision's names, with RAIVNLab's heads."""
  nn = torch.nn

  class Block(nn.Module):
    def __init__(self, inside, width, stride):
      super().__init__()
      conv = lambda i, s: nn.Conv2d(i, width, 3, s, 1, bias=False)
      self.conv1, self.bn1 = conv(inside, stride), nn.BatchNorm2d(width)
      self.conv2, self.bn2 = conv(width, 1), nn.BatchNorm2d(width)
      self.downsample = nn.Sequential()
      if inside != width:
        self.downsample = nn.Sequential(
          nn.Conv2d(inside, width, 1, stride, bias=False),
          nn.BatchNorm2d(width),
        )

    def forward(self, x):
      y = torch.relu(self.bn1(self.conv1(x)))
      return torch.relu(self.bn2(self.conv2(y)) + self.downsample(x))

  class Heads(nn.Module):
    def __init__(self):
      super().__init__()
      for i, dim in enumerate(dims):
        setattr(self, f'nesting_classifier_{i}', nn.Linear(dim, 2))

    def forward(self, x):
      heads = [*self.children()]
      return [head(x[:, :dim]) for head, dim in zip(heads, dims, strict=True)]

  class ResNet(nn.Module):
    def __init__(self):
      super().__init__()
      self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
      self.bn1 = nn.BatchNorm2d(16)
      self.layer1 = nn.Sequential(Block(16, 16, 1))
      self.layer2 = nn.Sequential(Block(16, 32, 2))
      self.layer3 = nn.Sequential(Block(32, 64, 2))
      self.fc = Heads()

    def forward(self, x):
      x = torch.relu(self.bn1(self.conv1(x)))
      x = self.layer3(self.layer2(self.layer1(x))).mean((2, 3))
      return x, self.fc(x)

  return ResNet()


def test_bfloat16(exported, tmp_path):
  """As near as another program's order of rounding lets it."""
  config, _ = exported
  config = config.copy_and_resolve_references()
  config.update(dtype='bfloat16', eval_dims=())
  stages.run(config, tmp_path, ('train', 'export'))
  _, paths = paths_of(config)
  expected_ND, _, _ = embeddings.load(tmp_path / 'embeddings', 'val')
  found_ND = mrl_jax.load(tmp_path).encode(paths, normalize=False)
  np.testing.assert_allclose(found_ND, expected_ND, rtol=0, atol=0.01)


def test_vectors_are_encoded(tmp_path):
  from configs import adapt_embeddings

  rng = np.random.default_rng(0)
  for split in ('train', 'val'):
    np.save(tmp_path / f'{split}-x.npy', rng.normal(size=(40, 12)))
    np.save(tmp_path / f'{split}-y.npy', np.arange(40) % 4)
  config = adapt_embeddings.get_config()
  config.update(embeddings=str(tmp_path), batch_size=20, num_epochs=2)
  config.mesh.data = 1
  stages.run(config, tmp_path / 'run', ('train', 'export'))
  encoder = mrl_jax.load(tmp_path / 'run/export')
  expected_ND, _, _ = embeddings.load(tmp_path / 'run/embeddings', 'val')
  row_ND = np.load(tmp_path / 'val-x.npy')
  found_ND = encoder.encode(row_ND, normalize=False, batch_size=16)
  np.testing.assert_allclose(found_ND, expected_ND, rtol=1e-5, atol=1e-6)
  assert encoder.nesting_dims == (8, 12)
  found = encoder.classify(row_ND, 8, top=4)
  with np.load(tmp_path / 'run/export/heads.npz', allow_pickle=False) as heads:
    logits_NC = expected_ND[:, :8] @ heads['kernel_8'] + heads['bias_8']
  np.testing.assert_array_equal(found.classes_NK[:, 0], logits_NC.argmax(1))
  assert found.names[0][0] == str(found.classes_NK[0, 0])
  assert 'float32 [n, 12]' in (tmp_path / 'run/export/README.md').read_text()
  for wrong in (row_ND[0], row_ND[:, :8], np.ones((2, 12), int), ['a.png']):
    with pytest.raises(ValueError, match=r'must be floats \[N, 12\]'):
      encoder.encode(wrong)


PIXELS = np.zeros((4, 12, 12, 3), np.uint8)


@pytest.mark.parametrize(
  'wrong, match',
  [
    (PIXELS.astype(np.float32), r'array of float32 \[4, 12, 12, 3\]: must be'),
    (PIXELS[0, :, :, 0], r'array of uint8 \[12, 12\]: must be uint8 \[H, W'),
    (PIXELS[None], r'array of uint8 \[1, 4, 12, 12, 3\]'),
    (PIXELS[..., :1], r'\[4, 12, 12, 1\]: must be .* or \[N, H, W, 3\]'),
    ([PIXELS[0], PIXELS[0] / 255], r'image 1: an array of float64'),
    ([PIXELS], r'image 0: an array of uint8 \[4, 12, 12, 3\]'),
    ([PIXELS[0], 3], 'image 1: int: must be a path'),
    ([b'GIF89a'], 'image 0: '),
    (Image.fromarray(np.zeros((9, 9), np.float32)), 'image 0: floating-point'),
  ],
)
def test_what_is_no_image_is_refused(encoder, wrong, match):
  with pytest.raises(ValueError, match=match):
    encoder.encode(wrong)


def test_a_damaged_file_is_named(encoder, tmp_path):
  path = tmp_path / 'cut.png'
  path.write_bytes(images.encoded(0)[:60])
  with pytest.raises(ValueError, match=r'cut\.png: '):
    encoder.encode([path])


def test_other_sizes_where_nothing_is_resized(encoder, monkeypatch):
  monkeypatch.setitem(encoder.preprocess, 'resize', 0)
  assert encoder.encode(PIXELS[:, :8, :8], dim=2).shape == (4, 2)
  with pytest.raises(ValueError, match='image 0: an image of 12x12 pixels'):
    encoder.encode(PIXELS)


@pytest.mark.parametrize('dim', [0, -1, 65])
def test_dims_beyond_the_width_are_refused(encoder, dim):
  with pytest.raises(ValueError, match=rf'dim {dim}: must be in \[1, 64\]'):
    encoder.encode(PIXELS, dim=dim)


def test_a_prefix_of_zeros_stays_so(encoder, monkeypatch):
  monkeypatch.setattr(encoder, '_embed', lambda x: np.zeros((len(x), 64)))
  assert not encoder.encode(PIXELS, dim=8).any()


def test_a_folder_without_an_export(exported, tmp_path):
  with pytest.raises(ValueError, match=r'has no encoder\.stablehlo: must be'):
    mrl_jax.load(tmp_path)
  for name in ('config.json', 'preprocess.json'):
    (tmp_path / name).write_bytes((exported[1].export / name).read_bytes())
  whole = (exported[1].export / 'encoder.stablehlo').read_bytes()
  (tmp_path / 'encoder.stablehlo').write_bytes(whole[:1000])
  with pytest.raises(ValueError, match=r'checksums\.json is missing: run --mo'):
    mrl_jax.load(tmp_path)
  unsealed(tmp_path)
  with pytest.raises(ValueError, match=r'encoder\.stablehlo cannot be read'):
    mrl_jax.load(tmp_path)


def test_an_export_is_the_same_bytes_again(exported, tmp_path):
  """Elsewhere, too: no paths of this machine, no order that changes."""
  config, workdir = exported
  files_ = {path.name: path.read_bytes() for path in workdir.export.iterdir()}
  copy = stages.open_workdir(
    config, shutil.copytree(workdir.path, tmp_path / 'run')
  )
  export.run(config, copy, trained_lib.chosen(config, copy))
  assert files_ == {
    path.name: path.read_bytes() for path in copy.export.iterdir()
  }
  root = str(pathlib.Path(export.__file__).parents[1])
  assert root.encode() not in files_['encoder.stablehlo']
  assert b'.py' not in files_['encoder.stablehlo']
  with safetensors.safe_open(
    copy.export / 'model.safetensors', 'numpy'
  ) as file:
    metadata = file.metadata()
  header = files_['model.safetensors'][:4096].decode(errors='replace')
  places = [header.index(f'"{name}":') for name in sorted(metadata)]
  assert places == sorted(places)


def test_an_interrupted_export_leaves_the_old_one(exported, monkeypatch):
  config, workdir = exported
  before = {path: path.read_bytes() for path in workdir.export.iterdir()}

  def interrupted(*args, **kwargs):
    half = workdir.path / '.export.tmp'
    assert (half / 'encoder.stablehlo').exists()
    raise KeyboardInterrupt

  monkeypatch.setattr(model_card, 'text', interrupted)
  with pytest.raises(KeyboardInterrupt):
    export.run(config, workdir, trained_lib.chosen(config, workdir))
  after = {path: path.read_bytes() for path in workdir.export.iterdir()}
  assert after == before
  assert not (workdir.path / '.export.tmp').exists()
