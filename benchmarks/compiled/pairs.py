"""The training step of CLIP-B/16's towers, images with texts."""

from collections.abc import Sequence
import functools
from typing import Any

import jax
from jax import numpy as jnp

from benchmarks import imagenet
from benchmarks.compiled.program import make_mesh
from benchmarks.compiled.program import placed
from benchmarks.compiled.program import products
from benchmarks.compiled.program import Program
from benchmarks.compiled.program import Programs
from configs import clip_b16_mrl
from mrl_jax.stages import build as build_lib
from mrl_jax.stages.pairs import build
from mrl_jax.training import inference
from mrl_jax.training import pair_step
from mrl_jax.training import sharding
from mrl_jax.training import state as state_lib


def programs(args, devices: Sequence[Any]) -> Programs:
  """The step of `clip_b16_mrl`; on several chips also without FSDP."""
  for fsdp in (True, False)[: 1 + (len(devices) > 1)]:
    name = f'CLIP-B/16{", FSDP" * (fsdp and len(devices) > 1)}'
    yield name, functools.partial(_step, args, devices, fsdp)


def _config(args):
  config = clip_b16_mrl.get_config()
  config.dtype = args.dtype
  if args.tiny:
    config.encoder, config.image_size = 'resnet8', 16
    config.pairs.text_width, config.pairs.text_heads = 32, 2
    config.pairs.text_depth, config.pairs.max_tokens = 1, 8
    config.pairs.vocabulary_size, config.pairs.width = 64, 32
    config.nesting_dims = (8, 32)
  return config


def _step(args, devices, fsdp: bool) -> Program:
  config, mesh = _config(args), make_mesh(devices)
  optimizer, schedule = build_lib.optimizer(config, steps_per_epoch=1000)
  found = []

  def make():
    graphdef, state = state_lib.create(build.model(config), optimizer)
    found.append(graphdef)
    return state

  shapes = jax.eval_shape(make)
  layout = sharding.of_state(shapes, mesh, fsdp=fsdp)
  state = jax.tree.map(
    lambda x, y: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=y),
    shapes,
    layout,
  )
  step = pair_step.make_pair_step(
    found[0],
    optimizer,
    lambda key, batch, step: (imagenet.normalize(batch['image']), None),
    seed=0,
    mesh=mesh if mesh.size > 1 else None,
    schedule=schedule,
    sharding=(layout, sharding.replicated(mesh)),
  )
  N, side = args.batch_size * mesh.size, config.image_size
  batch = {
    'image': placed(mesh, (N, side, side, 3), jnp.uint8, 'data'),
    'token': placed(mesh, (N, config.pairs.max_tokens), jnp.int32, 'data'),
    'length': placed(mesh, (N,), jnp.int32, 'data'),
  }
  # Gradients by inputs and by parameters, of the towers and the similarities.
  width = config.nesting_dims[-1]
  operations = 3 * (_of_a_pair(config, found[0], state) + 2 * N * width)
  return Program(
    step,
    (state, batch),
    N,
    operations=N * operations,
    donated=len(jax.tree.leaves(state)),
  )


def _of_a_pair(config, graphdef, state) -> float:
  """Multiplications and additions of both towers for one pair, forwards."""

  def encode(params, batch_stats, image_NHWC, token_NT, mask_NT):
    model = inference.evaluation_model(graphdef, params, batch_stats)
    return model.encode_images(image_NHWC), model.encode_texts(
      token_NT, mask_NT
    )

  side, tokens = config.image_size, config.pairs.max_tokens
  found = products(
    encode,
    state.params,
    state.batch_stats,
    jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32),
    jax.ShapeDtypeStruct((1, tokens), jnp.int32),
    jax.ShapeDtypeStruct((1, tokens), jnp.bool_),
  )
  return sum(x.operations for x in found)
