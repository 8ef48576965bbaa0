"""The peer: the ResNet of flax's ImageNet example, and its training step.

Written from its definition (github.com/google/flax, examples/imagenet): Linen's
convolutions and BatchNorm in bfloat16, one head, cross-entropy and an L2
penalty of the kernels, SGD with Nesterov momentum. On several devices each has
its own statistics, as under `pmap`, and the gradients are averaged.
"""

import functools

from flax import linen as nn
import jax
from jax import numpy as jnp
from jax.sharding import PartitionSpec
import optax

from benchmarks.compiled.program import placed
from benchmarks.compiled.program import products
from benchmarks.compiled.program import Program
from mrl_jax.models import resnet


class Block(nn.Module):
  """Two or three convolutions beside a shortcut; strided in the 3x3 one."""

  width: int
  stride: int
  bottleneck: bool
  conv: type
  norm: type

  @nn.compact
  def __call__(self, x):
    stride, out = (self.stride,) * 2, self.width * (4 if self.bottleneck else 1)
    if self.bottleneck:
      y = nn.relu(self.norm()(self.conv(self.width, (1, 1))(x)))
      y = nn.relu(self.norm()(self.conv(self.width, (3, 3), stride)(y)))
      y = self.conv(out, (1, 1))(y)
    else:
      y = nn.relu(self.norm()(self.conv(self.width, (3, 3), stride)(x)))
      y = self.conv(out, (3, 3))(y)
    y = self.norm(scale_init=nn.initializers.zeros_init())(y)
    if x.shape != y.shape:
      x = self.norm()(self.conv(out, (1, 1), stride)(x))
    return nn.relu(x + y)


class ResNet(nn.Module):
  """Images [N, H, W, 3] to logits [N, C]."""

  variant: resnet.Variant
  num_classes: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x, train: bool = True):
    conv = functools.partial(nn.Conv, use_bias=False, dtype=self.dtype)
    norm = functools.partial(
      nn.BatchNorm,
      use_running_average=not train,
      momentum=0.9,
      epsilon=1e-5,
      dtype=self.dtype,
    )
    widths = self.variant.widths
    x = conv(widths[0], (7, 7), (2, 2), padding=[(3, 3), (3, 3)])(x)
    x = nn.relu(norm()(x))
    x = nn.max_pool(x, (3, 3), strides=(2, 2), padding='SAME')
    for stage, depth in enumerate(self.variant.depths):
      for block in range(depth):
        stride = 2 if stage and not block else 1
        x = Block(widths[stage], stride, self.variant.bottleneck, conv, norm)(x)
    x = x.mean((1, 2))
    return nn.Dense(self.num_classes, dtype=self.dtype)(x)


def program(
  variant: resnet.Variant,
  mesh: jax.sharding.Mesh,
  *,
  examples: int,
  image_size: int,
  num_classes: int,
  dtype: jnp.dtype,
) -> Program:
  """The training step over `mesh`, of `examples` images in all."""
  model = ResNet(variant, num_classes, dtype)
  optimizer = optax.sgd(0.1, momentum=0.9, nesterov=True)
  axis = 'data' if mesh.size > 1 else None
  image = jax.ShapeDtypeStruct((1, image_size, image_size, 3), dtype)
  variables = jax.eval_shape(model.init, jax.random.key(0), image)
  params, stats = variables['params'], variables['batch_stats']

  def loss_fn(params, stats, batch):
    logits_NC, new = model.apply(
      {'params': params, 'batch_stats': stats},
      batch['image'],
      mutable=['batch_stats'],
    )
    one_hot_NC = jax.nn.one_hot(batch['label'], num_classes)
    loss = optax.softmax_cross_entropy(logits_NC, one_hot_NC).mean()
    kernels = [x for x in jax.tree.leaves(params) if x.ndim > 1]
    penalty = 1e-4 * 0.5 * sum(jnp.sum(x**2) for x in kernels)
    return loss + penalty, (new['batch_stats'], logits_NC)

  def step(params, stats, opt_state, batch):
    own = jax.tree.map(lambda x: x[0], stats)
    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
    (loss, (own, logits_NC)), grads = grad_fn(params, own, batch)
    accuracy = (logits_NC.argmax(-1) == batch['label']).mean()
    metrics = {'loss': loss, 'accuracy': accuracy}
    if axis:
      grads, metrics = jax.lax.pmean((grads, metrics), axis)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    params = optax.apply_updates(params, updates)
    return params, jax.tree.map(lambda x: x[None], own), opt_state, metrics

  whole, split = PartitionSpec(), PartitionSpec('data')
  if axis:
    step = jax.shard_map(
      step,
      mesh=mesh,
      in_specs=(whole, split, whole, split),
      out_specs=(whole, split, whole, whole),
      check_vma=False,
    )
  everywhere = lambda tree: jax.tree.map(
    lambda x: placed(mesh, x.shape, x.dtype), tree
  )
  state = (
    everywhere(params),
    jax.tree.map(
      lambda x: placed(mesh, (mesh.size, *x.shape), x.dtype, 'data'), stats
    ),
    everywhere(jax.eval_shape(optimizer.init, params)),
  )
  batch = {
    'image': placed(mesh, (examples, *image.shape[1:]), dtype, 'data'),
    'label': placed(mesh, (examples,), jnp.int32, 'data'),
  }
  found = products(lambda *x: model.apply(*x, train=False), variables, image)
  operations = 3 * sum(x.operations for x in found) - found[0].operations
  return Program(
    jax.jit(step, donate_argnums=(0, 1, 2)),
    (*state, batch),
    examples,
    operations=examples * operations,
    donated=len(jax.tree.leaves(state)),
    activations=examples // mesh.size * min(x.size for x in found[:-1]),
    parameters=[x.shape for x in jax.tree.leaves(state)],
  )
