"""Grad-CAM against its closed form, the maps' examples, and the command."""

import argparse
import io
import types

from flax import nnx
import jax
import numpy as np
from PIL import Image
import pytest

from mrl_jax import explain
from mrl_jax import models
from mrl_jax import stages
from mrl_jax.models import saliency
from mrl_jax.report import images as seen
from mrl_jax.stages import recorded
from mrl_jax.stages.analyze import baselines
from mrl_jax.stages.analyze import examples
from mrl_jax.stages.analyze import projection
from mrl_jax.stages.analyze import saliency as stage
from tests import images

DIMS = (2, 8, 64)


@pytest.fixture(scope='module')
def finished(tmp_path_factory, data_dir):
  from tests import conftest

  config = conftest.shrunk(data_dir)
  path = tmp_path_factory.mktemp('run')
  stages.run(config, path, ('train', 'embed'))
  return config, stages.open_workdir(config, path)


@pytest.fixture(scope='module')
def model():
  made = models.Classifier('resnet8', DIMS, 5, rngs=nnx.Rngs(0))
  return nnx.view(made, use_running_average=True)


@pytest.fixture(scope='module')
def image_NHWC():
  return np.random.default_rng(0).normal(size=(3, 16, 16, 3)).astype('float32')


def test_class_activation_by_hand():
  activation = np.array([[[1, 2], [3, 4]]], np.float32)[..., None]
  activation = np.concatenate([activation, -activation], -1)
  gradient = np.zeros_like(activation)
  gradient[0, 0, 0, 0] = 8  # A mean of 2.
  gradient[..., 1] = 1
  # 2 a - a = a, scaled by its largest, 4.
  found = saliency.class_activation(activation, gradient)
  np.testing.assert_allclose(found, [[[0.25, 0.5], [0.75, 1]]])
  assert not saliency.class_activation(activation, -gradient).any()


def test_grad_cam_is_the_heads_rows(model, image_NHWC):
  """After mean pooling the gradient is the classifier's row, over h w."""
  found = jax.jit(saliency.grad_cam)(model, image_NHWC)
  activation = np.asarray(model.encoder.features(image_NHWC)['layer3'])
  logits_GNC = np.asarray(model(image_NHWC))
  np.testing.assert_array_equal(found.class_GN, logits_GNC.argmax(-1))
  np.testing.assert_allclose(
    found.probability_GN, jax.nn.softmax(logits_GNC).max(-1), rtol=1e-5
  )
  kernel, offset = model.head.kernel[...], 0
  for g, m in enumerate(DIMS):
    for n in range(3):
      row = kernel[offset : offset + m, found.class_GN[g, n]]
      heat = np.maximum(activation[n, ..., :m] @ row, 0)
      heat = heat / (heat.max() or 1)
      np.testing.assert_allclose(found.heat_GNhw[g, n], heat, atol=1e-5)
    offset += m


def test_one_pass_forward_and_none_below_the_last_stage(model, image_NHWC):
  """Convolutions in the program: those of one forward pass, no more."""
  count = lambda f: str(jax.make_jaxpr(f)(image_NHWC)).count(
    'conv_general_dilated['
  )
  forward = count(lambda x: model(x))
  assert forward > 5
  assert count(lambda x: saliency.grad_cam(model, x)) == forward


class Transformer:
  """One image, tokens given, no norms: as far as rollout looks."""

  stage_names = ('embed', 'block1', 'block2')

  def __init__(self, tokens, num_heads):
    block = types.SimpleNamespace(
      norm1=lambda x: x,
      qkv=lambda x: np.concatenate([x, 2 * x, x], -1),
      num_heads=num_heads,
    )
    self.blocks = [block, block]
    self._features = dict(zip(self.stage_names, tokens, strict=True))

  def features(self, image_NHWC):
    return self._features


def test_attention_rollout_step_by_step():
  token_STD = np.random.default_rng(0).normal(size=(3, 5, 6)).astype('float32')
  encoder = Transformer(token_STD[:, None], num_heads=2)
  found = saliency.attention_rollout(encoder, np.zeros((1, 4, 4, 3)))
  expected = np.eye(5)
  for token_TD in token_STD[:2]:  # Nothing follows the last block's.
    heads = []
    for x in (token_TD[:, :3], token_TD[:, 3:]):
      weight = np.exp(2 * x @ x.T / np.sqrt(3))
      heads.append(weight / weight.sum(1, keepdims=True))
    expected = (np.mean(heads, 0) + np.eye(5)) / 2 @ expected
  heat = expected[0, 1:].reshape(2, 2)
  np.testing.assert_allclose(found[0], heat / heat.max(), rtol=1e-5)


def test_the_examples_on_which_widths_differ_come_first():
  label_N = np.array([0, 0, 1, 1, 2])
  prediction_GN = np.array([[0, 1, 0, 1, 0], [0, 2, 1, 1, 1], [0, 0, 1, 1, 1]])
  # The example 1 has three classes and is right at last, 2 has two, 4 is
  # never right; 0 and 3 change nothing, and their classes were shown.
  found = stage._telling(prediction_GN, label_N)
  assert found.tolist() == [1, 2, 4, 0, 3]


def test_stages_write_what_the_report_reads(finished):
  config, workdir = finished
  for part in (projection, stage, baselines):
    part.run(config, workdir, workdir.checkpoint(workdir.latest_step()))
    assert all((workdir.analysis / name).exists() for name in part.FILES)
  folder = workdir.path / 'analysis'
  record = stages.files.read_json(folder / 'projection.json')
  assert record['dims'] == list(DIMS)
  for name, width in {'pca2': 2, 'pca3': 3, 'tsne': 2}.items():
    assert np.shape(record[name]) == (3, 70, width)
  assert np.shape(record['prediction']) == (3, 70)
  data = seen.projection(record, folder).projection['data']
  assert len(data['names_shown']) == 10
  record = stages.files.read_json(folder / 'saliency.json')
  shown = seen.saliency(record, folder).saliency
  assert len(shown['rows']) == 8 and len(shown['rows'][0]['cells']) == 3
  record = stages.files.read_json(folder / 'baselines.json')
  assert not record['sampled'] and record['dims'] == [2, 5, 8, 64]
  # At the full width SVD turns the rows, and cosines stay what they are.
  knn1 = record['knn1']
  assert abs(knn1['SVD'][-1] - knn1['nested'][-1]) < 3


def test_a_width_that_leaves_nothing_of_a_row_has_no_accuracy():
  """Of the dims only the last is read; random dims meet it late."""
  label_N = np.arange(6) % 2
  row_ND = np.zeros((6, 3), np.float32)
  row_ND[:, 2] = label_N + 1
  row_ND[:3, 1] = 1
  found = baselines.knn1(row_ND, label_N, row_ND, label_N, (1, 2, 3), seed=0)
  assert found['nested'][:2] == [None, None]
  assert found['nested'][2] is not None


def test_thumbnails_are_those_of_the_rows(finished):
  config, workdir = finished
  projection.run(config, workdir, workdir.checkpoint(workdir.latest_step()))
  record = stages.files.read_json(workdir.path / 'analysis/projection.json')
  sheet = np.asarray(Image.open(workdir.path / 'analysis/projection.jpg'))
  source = recorded.open_split(config, config.eval_split)
  thumbnail = record['thumbnail']
  for i in (0, 13, 69):
    example = source.read(record['rows'][i])
    assert example.label == record['labels'][i]
    image = np.asarray(Image.open(io.BytesIO(example.data)))
    row, column = (8 * x for x in divmod(i, thumbnail['columns']))
    tile = sheet[row : row + 8, column : column + 8]
    error = np.abs(tile.astype(int) - image.reshape(8, 8, 1)).mean()
    assert error < 12  # It is a JPEG.


def call(run, *paths, out):
  args = {'run': str(run), 'images': list(map(str, paths)), 'out': str(out)}
  explain.run(argparse.Namespace(**args))


def test_images_of_ones_own(finished, tmp_path, capsys):
  _, workdir = finished
  for seed in (0, 1):
    (tmp_path / f'{seed}.png').write_bytes(images.encoded(seed))
  out = tmp_path / 'grid.png'
  call(workdir.path, tmp_path / '0.png', tmp_path / '1.png', out=out)
  assert '2 images at [2, 8, 64]' in capsys.readouterr().out
  assert out.read_bytes()[1:4] == b'PNG'


def test_an_image_that_cannot_be_read(finished, tmp_path):
  _, workdir = finished
  (tmp_path / 'cut.png').write_bytes(images.encoded(0)[:60])
  for name in ('cut.png', 'gone.png'):
    with pytest.raises(ValueError, match=f'image .*{name} cannot be read'):
      call(workdir.path, tmp_path / name, out=tmp_path / 'x.png')
  with pytest.raises(ValueError, match='must end in one of'):
    call(workdir.path, tmp_path / 'cut.png', out=tmp_path / 'x.bmp')
  with pytest.raises(ValueError, match='is no workdir'):
    call(tmp_path, tmp_path / 'cut.png', out=tmp_path / 'x.png')


def test_embeddings_of_other_images_are_refused(finished):
  config, _ = finished
  source = recorded.open_split(config, config.eval_split)
  label = (source.read(0).label + 1) % 10
  with pytest.raises(ValueError, match='run --mode=embed again'):
    examples.images(config, source, np.array([0]), np.array([label]))
  keys = [source.read(i).key for i in (0, 2)]
  found = examples.rows_to_indices(source, keys, np.array([0, 1, 2]))
  assert found.tolist() == [1, 3, 4]


@pytest.mark.parametrize('part', [projection, stage, baselines])
def test_embeddings_come_first(finished, tmp_path, part):
  config, _ = finished
  workdir = stages.open_workdir(config, tmp_path / 'run')
  with pytest.raises(ValueError, match='run --mode=embed first'):
    part.run(config, workdir, workdir.checkpoint(workdir.latest_step()))
