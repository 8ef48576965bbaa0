"""A program that can be compiled, and what is known of it beforehand."""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import math
from typing import Any, NamedTuple

import jax
from jax.sharding import AxisType
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
import numpy as np


@dataclasses.dataclass(frozen=True)
class Program:
  """A jitted function and the shapes of its arguments.

  Attributes:
    step: the jitted function.
    arguments: its arguments, `jax.ShapeDtypeStruct` with shardings.
    examples: the images or queries of a step, over all devices.
    operations: the model's own multiplications and additions in products, a
      step, over all devices; 0: not counted.
    donated: the number of arrays whose memory the results should use.
    activations: elements of the smallest array of activations on a device; 0:
      there are none.
    parameters: shapes that are no activations, however large.
    tiles: the work of a call of a Pallas kernel, from the arrays that it reads
      and writes; the compiled text does not tell.
  """

  step: Callable
  arguments: tuple
  examples: int
  operations: float = 0.0
  donated: int = 0
  activations: int = 0
  parameters: Sequence[tuple[int, ...]] = ()
  tiles: Callable | None = None


# Names of rows, and what makes the program of each: that takes seconds.
Programs = Iterator[tuple[str, Callable[[], Program]]]


def make_mesh(devices: Sequence[Any], model: int = 1) -> Mesh:
  """A mesh with the axes of `training.sharding.make_mesh`."""
  grid = np.array(devices).reshape(-1, model)
  return Mesh(grid, ('data', 'model'), axis_types=(AxisType.Auto,) * 2)


def placed(mesh: Mesh, shape: Sequence[int], dtype: Any, *axes: str | None):
  """An argument of that shape, split over the mesh's axes."""
  sharding = NamedSharding(mesh, PartitionSpec(*axes))
  return jax.ShapeDtypeStruct(tuple(shape), dtype, sharding=sharding)


class Product(NamedTuple):
  """A product or convolution: its operations, and elements of its result."""

  operations: float
  size: int


def products(function: Callable, *arguments: Any) -> list[Product]:
  """The products and convolutions of a function as it is written, in order.

  Only positions of a convolution that meet an input count.
  """
  return list(_products(jax.make_jaxpr(function)(*arguments).jaxpr))


def _products(jaxpr) -> Iterator[Product]:
  for equation in jaxpr.eqns:
    name = equation.primitive.name
    if name == 'dot_general':
      (left, _), _ = equation.params['dimension_numbers']
      shape = equation.invars[0].aval.shape
      summed = math.prod(shape[axis] for axis in left)
      size = equation.outvars[0].aval.size
      yield Product(2.0 * size * summed, size)
    elif name == 'conv_general_dilated':
      yield Product(_convolution(equation), equation.outvars[0].aval.size)
    times = equation.params.get('length', 1)
    # Closed or not, the programs inside have equations.
    is_program = lambda x: hasattr(x, 'eqns')
    inner = jax.tree.leaves(list(equation.params.values()), is_leaf=is_program)
    for jaxpr in filter(is_program, inner):
      for operations, size in _products(getattr(jaxpr, 'jaxpr', jaxpr)):
        yield Product(times * operations, size)


def _convolution(equation) -> float:
  (left, right), out = equation.invars[:2], equation.outvars[0].aval.shape
  given = equation.params
  left_spec, right_spec, out_spec = given['dimension_numbers']
  total = 2.0 * right.aval.shape[right_spec[1]]
  total *= out[out_spec[0]] * out[out_spec[1]]
  for axis, (low, _) in enumerate(given['padding']):
    outputs = np.arange(out[out_spec[2 + axis]])[:, None]
    taps = np.arange(right.aval.shape[right_spec[2 + axis]])[None]
    places = outputs * given['window_strides'][axis] - low
    places = places + taps * given['rhs_dilation'][axis]
    inputs = left.aval.shape[left_spec[2 + axis]]
    total *= ((places >= 0) & (places < inputs)).sum()
  return float(total)
