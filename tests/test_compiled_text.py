"""What is read from a compiled program's text, worked out on a small one."""

import pathlib

import jax
from jax import numpy as jnp
import pytest

from benchmarks import hlo
from benchmarks.compiled import counts
from benchmarks.compiled import measure
from benchmarks.compiled import program
from benchmarks.compiled import work

# A product of [4, 8] and [8, 16] thrice, its sum over devices, and an update.
TEXT = pathlib.Path(__file__).with_name('compiled_step.txt').read_text()


@pytest.fixture(scope='module')
def module():
  return hlo.Module(TEXT)


def test_messages_count_in_every_round_of_a_loop(module):
  assert counts.sent(module) == [
    ('all-gather', 'gradients', 1, 8 * 64 * 2 / 1e6),
    ('all-reduce', 'BatchNorm', 3, 3 * 4 * 16 * 4 / 1e6),
  ]


def test_arrays(module):
  assert module.aliased == {1}
  assert counts.on_host(module) == 1
  assert counts.of_float64(module) == 0
  # The product's, the sum's and the converted one.
  assert counts.wide(module, 64, ()) == (3, (2 * 64 + 512) * 4 / 1e6)
  assert counts.wide(module, 64, [(64, 1, 8)]) == (2, 2 * 64 * 4 / 1e6)


def test_work_of_all_rounds(module):
  rounds, once = work.of_module(module)
  assert rounds.operations == 3 * once.operations == 3 * 2 * 4 * 8 * 16
  # x, the slice of w and i are read; the product lies in fast memory.
  fused, product = (32 + 128) * 2 + 4, 64 * 4
  body, far = fused + 3 * product, fused + product
  entry = 512 * 2 + 512 * 4 + 2 * 512 * 2 + 2 * 512 * 2
  assert rounds == (once.operations * 3, 3 * body + entry, 3 * far + entry)


def test_products_of_a_function():
  image = jax.ShapeDtypeStruct((1, 5, 5, 2), jnp.float32)
  kernel = jax.ShapeDtypeStruct((3, 3, 2, 4), jnp.float32)

  def function(image, kernel):
    y = jax.lax.conv_general_dilated(
      image,
      kernel,
      window_strides=(2, 2),
      padding=((1, 1), (1, 1)),
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )
    return jax.jit(jnp.matmul)(y.reshape(9, 4), y.reshape(9, 4).T)

  convolution, product = program.products(function, image, kernel)
  # Three places along an axis meet 2, 3 and 2 of five pixels.
  assert convolution == (2 * 7 * 7 * 2 * 4, 36)
  assert product == (2 * 9 * 9 * 4, 81)


def test_messages_are_shown_where_there_are_several_chips():
  row = dict.fromkeys(measure.PRINTED, 1) | {'program': 'MRL'}
  sent = [counts.Sent('all-to-all', 'search', 2, 0.5)._asdict()]
  rows = [row | {'chips': n, 'sent': sent} for n in (1, 8)]
  done, messages = measure.tables(rows)
  assert [x['program (chips)'] for x in done] == ['MRL (1)', 'MRL (8)']
  assert [(x['all-reduce'], x['other'], x['by']) for x in messages] == [
    (0, 2, '2 search')
  ]
