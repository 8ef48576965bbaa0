"""Passes arrays round the devices of a mesh axis."""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax


def around(
  axis_name: str | None,
  visit: Callable[[Any, Any, Any], Any],
  held: Any,
  carry: tuple[Any, Any],
) -> tuple[Any, Any]:
  """Calls `visit(held, source, carry)` with what each device held at first.

  It returns the next carry, `(stays, goes)`. The latter is passed on with
  `held`, and at the end is back on the device whose `held` it belongs to.
  `source` is the number of the device that `held` comes from.
  """
  if axis_name is None:
    return visit(held, 0, carry)
  here, size = lax.axis_index(axis_name), lax.axis_size(axis_name)
  turn = [(i, (i + 1) % size) for i in range(size)]
  pass_on = lambda tree: jax.tree.map(
    lambda x: lax.ppermute(x, axis_name, turn), tree
  )

  def step(i, state):
    held, carry = state
    # Sent before it is read here, so that both can be at the same time.
    coming = pass_on(held)
    stays, goes = visit(held, (here - i) % size, carry)
    return coming, (stays, pass_on(goes))

  return lax.fori_loop(0, size, step, (held, carry))[1]
