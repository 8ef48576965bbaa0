"""Maps a function over batches in threads, in order, working ahead."""

import collections
from collections.abc import Callable, Iterable, Iterator, Sequence
import concurrent.futures
from typing import Any

from mrl_jax import cores

# Items that a thread takes at once, since waking it up costs.
_CHUNK = 8
# Batches worked on beside the one that is awaited.
_AHEAD = 2


def map_batches(
  function: Callable[[Any], Any],
  batches: Iterable[Sequence[Any]],
  num_threads: int = 0,
) -> Iterator[list[Any]]:
  """Yields `[function(x) for x in batch]`, working two batches in advance.

  `num_threads` of 0 means one a core. An exception in a thread is raised here.
  Closing the iterator cancels all work that has not begun.
  """
  apply = lambda chunk: [function(item) for item in chunk]
  pending = collections.deque()
  with concurrent.futures.ThreadPoolExecutor(
    num_threads or cores.count()
  ) as pool:
    try:
      for batch in batches:
        chunks = (batch[i : i + _CHUNK] for i in range(0, len(batch), _CHUNK))
        pending.append([pool.submit(apply, chunk) for chunk in chunks])
        if len(pending) > _AHEAD:
          yield _results(pending.popleft())
      while pending:
        yield _results(pending.popleft())
    finally:
      pool.shutdown(wait=False, cancel_futures=True)


def _results(futures):
  return [result for future in futures for result in future.result()]
