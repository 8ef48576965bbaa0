"""The same weights and batches through a training loop in plain PyTorch."""

import dataclasses

from flax import nnx
import jax
import numpy as np
import pytest

from mrl_jax import models
from mrl_jax import nesting
from mrl_jax.models import resnet
from mrl_jax.training import optim
from mrl_jax.training import state as state_lib
from mrl_jax.training import train_step as train_step_lib

torch = pytest.importorskip('torch', reason='torch is not installed')
torch_resnet = pytest.importorskip('benchmarks.torch_resnet')

# Identity and projected shortcuts, both strides, a ResNet-50's 2048 features.
VARIANT = resnet.Variant((2, 1, 1), (16, 32, 512))
DIMS = nesting.doubling(8, 2048)
NUM_CLASSES, BATCH_SIZE, SIZE = 10, 16, 64
STEPS, PEAK_STEP = 8, 2
# The recipe's 0.425 at a batch of 1024, scaled linearly.
LEARNING_RATE = 0.425 * BATCH_SIZE / 1024
MOMENTUM, LABEL_SMOOTHING = 0.9, 0.1
# The recipe's 1e-4 would hardly show in a few steps.
WEIGHT_DECAY = 1e-2


def head_widths(head):
  return DIMS[-1:] if head == 'mrl_e' else DIMS


def in_torchs_layout(state, head):
  """Parameters and running statistics by torch's names, in torch's layout."""
  arrays = {}
  for tree in (state.params['encoder'], state.batch_stats['encoder']):
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
      name = '.'.join(str(key.key) for key in path)
      for ours, theirs in (
        ('downsample.conv', 'downsample.0'),
        ('downsample.norm', 'downsample.1'),
        ('.conv.kernel', '.weight'),
        ('.scale', '.weight'),
        ('.mean', '.running_mean'),
        ('.var', '.running_var'),
      ):
        name = name.replace(ours, theirs)
      # Copied, because the train step donates what it is given.
      array = np.array(leaf)
      arrays[name] = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array
  kernel = np.array(state.params['head']['kernel'])
  bias = np.array(state.params['head']['bias']).reshape(-1, NUM_CLASSES)
  ends = np.cumsum(head_widths(head))
  for index, rows in enumerate(np.split(kernel, ends[:-1])):
    arrays[f'fc.{index}.weight'] = rows.T
    arrays[f'fc.{index}.bias'] = bias[index]
  return arrays


def make_batches():
  """Noisy coarse patterns, one to a class."""
  rng = np.random.default_rng(0)
  cells = SIZE // 8
  pattern = rng.normal(size=(NUM_CLASSES, cells, cells, 3))
  for _ in range(STEPS):
    label = rng.integers(NUM_CLASSES, size=BATCH_SIZE)
    coarse = pattern[label] + rng.normal(size=(BATCH_SIZE, cells, cells, 3))
    image = coarse.repeat(8, axis=1).repeat(8, axis=2)
    image += rng.normal(scale=0.3, size=image.shape)
    yield {'image': image.astype(np.float32), 'label': label.astype(np.int32)}


def create(head, optimizer):
  build = lambda: models.Classifier(
    'bottleneck', DIMS, NUM_CLASSES, head=head, blurpool=True, rngs=nnx.Rngs(0)
  )
  # Jitted, because building it eagerly takes seconds.
  arrays = jax.jit(lambda: nnx.state(build()))()
  graphdef = nnx.split(nnx.eval_shape(build))[0]
  graphdef, state = state_lib.create(nnx.merge(graphdef, arrays), optimizer)
  rng = np.random.default_rng(0)

  # An activation that rounding alone carries over the kink of its ReLU changes
  # the gradient at once; from torch's initialisation, 20 steps in float32
  # and in float64 end tens of per cent apart, in torch too. These norms keep
  # most activations away from the kink.
  def draw(path, leaf):
    bounds = {'scale': (0.1, 0.15), 'bias': (0.4, 0.6)}.get(path[-1].key)
    if bounds is None:
      return leaf
    return jax.numpy.asarray(rng.uniform(*bounds, leaf.shape), leaf.dtype)

  encoder = jax.tree_util.tree_map_with_path(draw, state.params['encoder'])
  params = {**state.params, 'encoder': encoder}
  return graphdef, dataclasses.replace(state, params=params)


def train(head):
  """Arrays before and after, and the losses, of the project's train step."""
  schedule = optim.schedule(
    'cyclic',
    LEARNING_RATE,
    steps_per_epoch=PEAK_STEP,
    num_epochs=STEPS // PEAK_STEP,
    peak_epoch=1,
  )
  optimizer = optim.sgd(
    schedule, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY, mask='reference'
  )
  graphdef, state = create(head, optimizer)
  train_step = train_step_lib.make_train_step(
    graphdef,
    optimizer,
    lambda key, batch, step: (batch['image'], batch['label']),
    seed=0,
    label_smoothing=LABEL_SMOOTHING,
  )
  start, losses = in_torchs_layout(state, head), []
  for batch in make_batches():
    state, values = train_step(state, batch)
    losses.append(float(values['loss']))
  return start, in_torchs_layout(state, head), losses


def train_torch(head, start, dtype=torch.float32):
  """Arrays after, and the losses, of a plain loop from the same start."""
  model = torch_resnet.Classifier(VARIANT, head, DIMS, NUM_CLASSES)
  model.load_state_dict({k: torch.tensor(v) for k, v in start.items()})
  model = model.to(dtype)
  optimizer = torch_resnet.optimizer(
    model, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
  )
  criterion = torch.nn.CrossEntropyLoss(label_smoothing=LABEL_SMOOTHING)
  losses = []
  for step, batch in enumerate(make_batches()):
    for group in optimizer.param_groups:
      group['lr'] = np.interp(
        step, [0, PEAK_STEP, STEPS], [1e-4 * LEARNING_RATE, LEARNING_RATE, 0]
      )
    image = torch.tensor(batch['image'].transpose(0, 3, 1, 2), dtype=dtype)
    label = torch.tensor(batch['label'], dtype=torch.int64)
    loss = sum(criterion(logits, label) for logits in model(image))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
  arrays = {k: v.numpy() for k, v in model.state_dict().items() if k in start}
  return arrays, losses


def test_training_trajectory(monkeypatch):
  monkeypatch.setitem(models.ENCODERS, 'bottleneck', VARIANT)
  start, ours, our_losses = train('mrl')
  theirs, their_losses = train_torch('mrl', start)
  np.testing.assert_allclose(our_losses, their_losses, rtol=2e-6)
  assert ours.keys() == theirs.keys()
  different = {}
  for name, array in theirs.items():
    difference = np.linalg.norm(ours[name] - array) / np.linalg.norm(array)
    if not difference < 1e-5:
      different[name] = difference
  assert not different
