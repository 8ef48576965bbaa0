"""The steps of training, evaluation and embedding."""

from collections.abc import Sequence
import dataclasses
import functools
from typing import Any

from flax import nnx
import jax
from jax import numpy as jnp

from benchmarks import head
from benchmarks import imagenet
from benchmarks.compiled import flax_imagenet
from benchmarks.compiled.program import make_mesh
from benchmarks.compiled.program import placed
from benchmarks.compiled.program import products
from benchmarks.compiled.program import Program
from benchmarks.compiled.program import Programs
from mrl_jax import models
from mrl_jax import nesting
from mrl_jax.models import batch_norm
from mrl_jax.models import resnet
from mrl_jax.training import inference
from mrl_jax.training import optim
from mrl_jax.training import sharding
from mrl_jax.training import state as state_lib
from mrl_jax.training import train_step as train_step_lib

# The encoder of --tiny, whose steps compile in seconds.
TINY = resnet.Variant(
  (1, 1),
  (16, 64),
  bottleneck=False,
  stem='3x3',
  stem_stride=1,
  stem_pool=False,
)


@dataclasses.dataclass(frozen=True)
class Model:
  """A row's model; `kind` is that of its head.

  With `by_device`, BatchNorm takes its statistics over a device's examples.
  """

  kind: str
  blurpool: bool = False
  model: int = 1
  fsdp: bool = False
  by_device: bool = False

  @property
  def name(self) -> str:
    parts = [name for name, kind in head.KINDS.items() if kind == self.kind]
    parts += ['BlurPool'] if self.blurpool else []
    parts += [f'model {self.model}'] if self.model > 1 else []
    parts += ['FSDP'] if self.fsdp else []
    parts += ['statistics by device'] if self.by_device else []
    return ', '.join(parts)


def models_of(blurs: bool, has_norms: bool, chips: int) -> list[Model]:
  """The rows: heads on one chip, shardings on several."""
  if chips == 1:
    rows = [Model('fixed'), Model('mrl_e'), Model('mrl')]
    return rows + [Model('mrl', blurpool=True)] * blurs
  meshes = [{}, {'fsdp': True}] + [{'by_device': True}] * has_norms
  if not chips % 2:
    meshes += [{'model': 2}, {'model': 2, 'fsdp': True}]
  return [Model('mrl', blurpool=blurs, **mesh) for mesh in meshes]


def train(args, devices: Sequence[Any]) -> Programs:
  has_norms = isinstance(_variant(args), resnet.Variant)
  for row in models_of(_blurs(args), has_norms, len(devices)):
    yield row.name, functools.partial(_train, args, devices, row)
  if _blurs(args):
    yield (
      "flax's example",
      functools.partial(
        flax_imagenet.program,
        models.ENCODERS[args.encoder],
        make_mesh(devices),
        examples=args.batch_size * len(devices),
        image_size=args.image_size,
        num_classes=args.num_classes,
        dtype=jnp.dtype(args.dtype),
      ),
    )


def evaluate(args, devices: Sequence[Any]) -> Programs:
  """Loss and ranks of every width."""
  kinds = ('fixed', 'mrl_e', 'mrl') if len(devices) == 1 else ('mrl',)
  for kind in kinds:
    row = Model(kind, _blurs(args))
    yield row.name, functools.partial(_infer, args, devices, row, embeds=False)


def embed(args, devices: Sequence[Any]) -> Programs:
  row = Model('mrl', _blurs(args))
  yield 'encoder', functools.partial(_infer, args, devices, row, embeds=True)


def _variant(args):
  return TINY if args.tiny else models.ENCODERS[args.encoder]


def _blurs(args) -> bool:
  """Whether the encoder can have BlurPool, and is worth a row with it."""
  return isinstance(_variant(args), resnet.Variant) and not args.tiny


def _classifier(args, row: Model) -> models.Classifier:
  options = {'dtype': jnp.dtype(args.dtype), 'rngs': nnx.Rngs(0)}
  if args.tiny:
    encoder = resnet.ResNet(TINY, blurpool=row.blurpool, **options)
  else:
    encoder = models.create(
      args.encoder,
      image_size=args.image_size,
      blurpool=row.blurpool,
      **options,
    )
  dims = _dims(args, row.kind)
  model = models.Classifier(
    encoder, dims, args.num_classes, head=row.kind, **options
  )
  batch_norm.set_group(model, args.batch_size if row.by_device else 0)
  return model


def _dims(args, kind: str) -> tuple[int, ...]:
  width = TINY.num_features if args.tiny else models.num_features(args.encoder)
  dims = nesting.doubling(8, width)
  return dims[-1:] if kind == 'fixed' else dims


def _state(args, row: Model, mesh, optimizer):
  """The graph definition, and shapes of the state with their shardings."""
  found = []

  def build():
    graphdef, state = state_lib.create(_classifier(args, row), optimizer)
    found.append(graphdef)
    return state

  shapes = jax.eval_shape(build)
  layout = sharding.of_state(shapes, mesh, fsdp=row.fsdp)
  state = jax.tree.map(
    lambda x, y: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=y),
    shapes,
    layout,
  )
  return found[0], state, layout


def _batch(args, mesh, **others) -> dict[str, jax.ShapeDtypeStruct]:
  # As many images a chip on every mesh.
  N, side = args.batch_size * mesh.size, args.image_size
  return {
    'image': placed(mesh, (N, side, side, 3), jnp.uint8, 'data'),
    'label': placed(mesh, (N,), jnp.int32, 'data'),
    **{name: placed(mesh, (N,), x, 'data') for name, x in others.items()},
  }


def _augment(key, batch, step):
  del key, step
  return imagenet.normalize(batch['image']), batch['label']


def _train(args, devices, row: Model) -> Program:
  mesh = make_mesh(devices, row.model)
  if isinstance(_variant(args), resnet.Variant):
    optimizer = optim.sgd(0.1, momentum=0.9, weight_decay=1e-4)
  else:
    optimizer = optim.adamw(1e-3, weight_decay=0.05)
  graphdef, state, layout = _state(args, row, mesh, optimizer)
  step = train_step_lib.make_train_step(
    graphdef,
    optimizer,
    _augment,
    seed=0,
    label_smoothing=0.1,
    sharding=(layout, sharding.replicated(mesh)),
  )
  batch = _batch(args, mesh)
  return _program(args, row, step, (state, batch), state, graphdef=graphdef)


def _infer(args, devices, row: Model, *, embeds: bool) -> Program:
  mesh = make_mesh(devices, row.model)
  graphdef, state, _ = _state(args, row, mesh, optim.sgd(0.1))
  if embeds:
    make, out = inference.make_embed_step, sharding.over_data(mesh)
  else:
    make, out = inference.make_eval_step, sharding.replicated(mesh)
  step = make(graphdef, imagenet.normalize, sharding=out)
  batch = _batch(args, mesh, mask=jnp.bool_)
  arguments = (state.params, state.batch_stats, batch)
  return _program(
    args, row, step, arguments, state, graphdef=graphdef, embeds=embeds
  )


def _program(
  args, row, step, arguments, state, *, graphdef, embeds=False
) -> Program:
  """Adds the model's own operations: those of an image times the batch."""
  examples, side = len(arguments[-1]['label']), args.image_size
  trains = arguments[0] is state

  def encode(params, batch_stats, image_NHWC):
    model = inference.evaluation_model(graphdef, params, batch_stats)
    return model.encoder(image_NHWC)

  image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
  found = products(encode, state.params, state.batch_stats, image)
  operations = sum(x.operations for x in found)
  if not embeds:
    dims = _dims(args, row.kind)
    width = sum(dims) if row.kind == 'mrl' else dims[-1]
    operations += 2 * width * args.num_classes
  if trains:
    # Gradients by inputs and by parameters; images need none.
    operations = 3 * operations - found[0].operations
  return Program(
    step,
    arguments,
    examples,
    operations=examples * operations,
    donated=len(jax.tree.leaves(state)) if trains else 0,
    activations=args.batch_size * min(x.size for x in found),
    parameters=[x.shape for x in jax.tree.leaves(state)],
  )
