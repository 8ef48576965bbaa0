"""Programs of JAX compiled ahead, with what compiling tells of them."""

from collections.abc import Callable, Iterator, Sequence
import concurrent.futures
import contextlib
import threading
import time
from typing import Any, NamedTuple, TypeVar

import jax

from benchmarks.accelerator.sizes import Sizes
from mrl_jax import cores

_Result = TypeVar('_Result')
# A program in small then takes a CPU a quarter of the time to compile.
_QUICK = {
  'xla_backend_optimization_level': 0,
  'xla_llvm_disable_expensive_passes': True,
  'xla_cpu_use_fusion_emitters': False,
}


class _Hits(threading.local):
  """Programs that this thread has found in JAX's compilation cache."""

  count = 0


_hits = _Hits()


def _hear(event: str, **_: Any) -> None:
  if event == '/jax/compilation_cache/cache_hits':
    _hits.count += 1


jax.monitoring.register_event_listener(_hear)


class Program(NamedTuple):
  """A compiled program.

  Attributes:
    call: the program.
    about: values for its row: seconds to compile, planned memory, operations.
  """

  call: Callable
  about: dict[str, Any]


def compile_(sizes: Sizes, function: Callable, *arguments: Any) -> Program:
  """Compiles a jitted function for these arguments, arrays or their shapes."""
  start, before = time.perf_counter(), _hits.count
  compiled = _compiled(sizes, function.lower(*arguments))
  about = {'compile s': time.perf_counter() - start}
  about['from cache'] = _hits.count > before
  memory = compiled.memory_analysis()
  if memory is not None:
    about['temporary MB'] = memory.temp_size_in_bytes / 1e6
    about['planned MB'] = 1e-6 * (
      memory.temp_size_in_bytes
      + memory.argument_size_in_bytes
      + memory.output_size_in_bytes
      - memory.alias_size_in_bytes
    )
  costs = compiled.cost_analysis() or {}
  if costs.get('flops', 0) > 0:
    about['GFLOP'] = 1e-9 * costs['flops']
  return Program(compiled, about)


def _compiled(sizes: Sizes, lowered: jax.stages.Lowered):
  if sizes.tiny and jax.default_backend() == 'cpu':
    # Other versions of XLA may not know an option.
    with contextlib.suppress(jax.errors.JaxRuntimeError):
      return lowered.compile(compiler_options=_QUICK)
  return lowered.compile()


@contextlib.contextmanager
def on_host() -> Iterator[None]:
  """Keeps small operations, as of a new model, off the accelerator.

  It would compile a program for each of their shapes.
  """
  try:
    host = jax.local_devices(backend='cpu')[0]
  # Where JAX_PLATFORMS names the accelerator alone.
  except RuntimeError:
    yield
    return
  with jax.default_device(host):
    yield


def together(
  makes: Sequence[Callable[[], _Result]],
) -> list[_Result | Exception]:
  """Calls functions that compile in threads; a failure is its result.

  XLA compiles a program in few threads. Nothing is measured meanwhile.
  """

  def attempt(make):
    try:
      return make()
    # The caller raises it where that program is to be measured.
    except Exception as error:
      return error

  workers = max(1, min(len(makes), max(2, cores.count() // 4)))
  with concurrent.futures.ThreadPoolExecutor(workers) as pool:
    return list(pool.map(attempt, makes))
