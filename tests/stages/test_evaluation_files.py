"""The pass over a set, and the files that evaluate writes."""

from flax import nnx
import jax
from jax import numpy as jnp
import numpy as np
import pytest

from mrl_jax import models
from mrl_jax.analysis import accuracy
from mrl_jax.stages import evaluation_files
from mrl_jax.training import inference


def test_class_names_are_no_formulas(tmp_path):
  name = '=HYPERLINK("http://x","y")'
  found = accuracy.Measured({'top1@8': 50.0}, np.array([[25.0]]), [], [])
  evaluation_files.write(
    tmp_path,
    'val',
    found,
    widths=(8,),
    dims=(8,),
    class_names=[name],
    record={},
  )
  text = (tmp_path / 'val-classes.csv').read_text()
  assert text.splitlines()[1] == f""""'{name.replace('"', '""')}",25.0"""


def test_a_pass_is_the_heads_logits():
  rng = np.random.default_rng(0)
  batch = {
    'image': rng.integers(0, 256, (6, 8, 8, 3), np.uint8),
    'label': np.array([1, 0, 1, 1, 0, 0], np.int32),
    'mask': np.array([1, 1, 1, 1, 1, 0], bool),
  }
  model = models.Classifier('resnet8', (4, 64), 7, rngs=nnx.Rngs(0))
  graphdef, params, stats = nnx.split(model, nnx.Param, nnx.BatchStat)
  parts = nnx.to_pure_dict(params), nnx.to_pure_dict(stats)
  normalize = lambda x: x / jnp.float32(255)
  members = ((2, 5), (3,))
  step, mapped = (
    inference.make_predict_step(
      graphdef,
      normalize,
      inference.Wanted(flip=True, saved_dims=(64,), members=x, embedding=True),
    )
    for x in (None, members)
  )
  view = nnx.view(model, use_running_average=True)
  image = normalize(batch['image'])
  embedding = view.encoder(image)
  mirrored = view.encoder(image[:, :, ::-1])
  logits = (view.head(embedding) + view.head(mirrored)) / 2
  (plain,) = inference.run(step, *parts, [batch])
  np.testing.assert_allclose(
    plain['embedding'], embedding, rtol=1e-4, atol=1e-4
  )
  np.testing.assert_allclose(plain['logits'], logits[1:], rtol=2e-3, atol=2e-3)
  assert plain['logits'].dtype == np.float16
  order = jnp.argsort(-logits, axis=-1)[..., :5]
  np.testing.assert_array_equal(plain['top'], order)
  own = jnp.stack([logits[..., [2, 5]].max(-1), logits[..., 3]], axis=-1)
  expected = -jax.nn.log_softmax(own)[:, np.arange(6), batch['label']]
  (found,) = inference.run(mapped, *parts, [batch])
  np.testing.assert_allclose(found['loss'], expected, rtol=1e-4, atol=1e-5)
  np.testing.assert_array_equal(found['top'][..., 0], own.argmax(-1))
  assert found['top'].shape == (2, 6, 2)
  collected = evaluation_files.collect(iter([found, found]), (4, 64))
  assert collected.loss_GN.shape == (2, 10)
  np.testing.assert_array_equal(
    collected.index_N, [0, 1, 2, 3, 4, 6, 7, 8, 9, 10]
  )
  with pytest.raises(ValueError, match=r'every image .* is damaged'):
    evaluation_files.collect(
      iter([found | {'mask': np.zeros(6, bool)}]), (4, 64)
    )
  with pytest.raises(ValueError, match='loss is not finite'):
    evaluation_files.collect(
      iter([found | {'loss': np.full((2, 6), np.nan)}]), (4, 64)
    )
