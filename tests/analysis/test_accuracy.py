"""What is said of a set, worked out by hand, and the pass that sees it."""

import csv
import io

from flax import nnx
import jax
from jax import numpy as jnp
import numpy as np
import pytest

from mrl_jax import models
from mrl_jax import retrieval
from mrl_jax.analysis import accuracy
from mrl_jax.stages import evaluation_files
from mrl_jax.terminal import tables
from mrl_jax.training import inference

SETTINGS = accuracy.Settings(
  widths=(1, 2), neighbors=3, shots=(1, 2), ways=(0, 10), repeats=1, seed=0
)
# Three classes of the model, of which the first two are one of the set.
OF_MODEL = np.array([0, 0, 1])
TRAIN = np.array([[1, 0.1], [1, 0.2], [1, 0.3], [0.1, 1], [0.2, 1]], np.float32)
TRAIN_LABEL = np.array([0, 1, 1, 2, 2])
QUERY = np.array([[2, 0.1], [1, 3], [1, 2]], np.float32)


def training():
  return accuracy.TrainingSet(
    retrieval.prepare(TRAIN, (1, 2)), TRAIN, TRAIN_LABEL
  )


def seen(top_GNK, labels, query_QD=QUERY):
  G, N, _ = top_GNK.shape
  loss_GN = np.arange(G * N).reshape(G, N)
  return accuracy.Outputs(
    (1, 2), loss_GN, top_GNK, labels, np.arange(N), query_QD
  )


def test_a_set_with_classes_of_its_own():
  top_GNK = np.array([[[1, 0], [1, 0], [0, 1]], [[0, 1], [1, 0], [1, 0]]])
  found = accuracy.measure(
    SETTINGS,
    seen(top_GNK, np.array([0, 1, 1])),
    training(),
    num_set_classes=2,
    of_model_C=OF_MODEL,
  )
  values = found.values
  assert (values['loss@1'], values['loss@2']) == (1, 4)
  np.testing.assert_allclose(values['top1@1'], 100 / 3)
  assert values['top1@2'] == values['top5@1'] == 100
  assert values['knn1@2'] == values['knn3@2'] == 100
  # At width 1 all are as near, and the first is the nearest.
  np.testing.assert_allclose(values['knn1@1'], 100 / 3)
  np.testing.assert_array_equal(found.per_class_GS, [[0, 50], [100, 100]])
  # Never more ways than classes: both settings are the same.
  assert [x['name'] for x in found.few_shot] == ['shot1way2', 'shot2way2']
  assert values['shot2way2@2'] == 100


def test_an_example_with_several_labels_or_none():
  top_GNK = np.array([[[2, 0], [1, 0], [1, 0]]] * 2)
  found = accuracy.measure(
    SETTINGS,
    seen(top_GNK, np.array([0, 1, 1])),
    training(),
    num_set_classes=3,
    of_model_C=np.arange(3),
    labels=[(2, 0), (), (2,)],
  )
  # Of two that count the first is right.
  assert found.values['top1@1'] == found.values['top5@1'] == 50
  # The nearest are 0, and 2 for the last.
  assert found.values['knn1@2'] == 100
  assert not [
    name for name in found.values if name.startswith(('loss', 'shot'))
  ]
  with pytest.raises(ValueError, match='no example of the set has a label'):
    accuracy.measure(
      SETTINGS,
      seen(top_GNK, np.array([0, 1, 1])),
      training(),
      num_set_classes=3,
      of_model_C=np.arange(3),
      labels=[()] * 3,
    )


def test_a_neighbour_of_a_class_that_the_set_lacks_is_wrong():
  found = accuracy.measure(
    SETTINGS,
    seen(np.zeros((2, 1, 1), int), np.array([0]), QUERY[1:2]),
    training(),
    num_set_classes=1,
    of_model_C=np.array([0, 0, -1]),
  )
  assert (found.values['top1@2'], found.values['knn1@2']) == (100, 0)
  assert found.notes == ['few-shot: left out, as all examples are of one class']


def test_shots_that_a_class_cannot_give_are_told():
  found = accuracy.measure(
    SETTINGS._replace(shots=(2, 3)),
    seen(np.zeros((2, 3, 1), int), np.array([0, 1, 1])),
    training(),
    num_set_classes=2,
    of_model_C=OF_MODEL,
  )
  assert [x['shots'] for x in found.few_shot] == [2]
  assert 'few-shot: 3 shots left out, as a class has 2' in found.notes[0]


def test_tables_as_markdown_and_csv():
  values = {'loss@8': 0.5, 'top1@8': 50.0, 'knn10@8': 1.0, 'knn10@12': 2.0}
  table = tables.widths(values | {'shot5way10@12': 1 / 3}, (8, 12))
  assert tables.markdown(table).splitlines() == [
    '| width | loss | top-1 % | 10-NN % | 5-shot 10-way % |',
    '| --- | ---: | ---: | ---: | ---: |',
    '| 8 | 0.50 | 50.00 | 1.00 | – |',
    '| 12 | – | – | 2.00 | 0.33 |',
  ]
  assert tables.csv(table).splitlines()[1:] == [
    '8,0.5,50.0,1.0,',
    '12,,,2.0,0.3333333333333333',
  ]
  quoted = tables.Table(('class',), [('a,b|c',)])
  assert tables.csv(quoted) == 'class\n"a,b|c"\n'
  assert 'a,b\\|c' in tables.markdown(quoted)


@pytest.mark.parametrize('begin', list('=+-@\t\r\n＝＋－＠'))
def test_no_cell_of_a_csv_is_a_formula(begin):
  name = f'{begin}cmd|" /C calc"!A0'
  table = tables.Table(
    ('class', name), [(name, -1.5), ('a\r=1', -2), (None, 3)]
  )
  text = tables.csv(table)
  rows = list(csv.reader(io.StringIO(text, newline='')))
  assert rows == [
    ['class', f"'{name}"], [f"'{name}", '-1.5'], ['a\r=1', '-2'], ['', '3']
  ]  # fmt: skip
  # Nor does a carriage return begin a row of its own.
  assert '"a\r=1",-2\n' in text


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
      flip=True,
      saved_dims=(64,),
      members=x,
      embedding=True,
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
