"""Maps a function over batches in threads, in order, working ahead."""

import collections
from collections.abc import Callable, Iterable, Iterator, Sequence
import concurrent.futures
from typing import Any

# Items that a thread takes at once, since waking it up costs.
_CHUNK = 8


def map_batches(
  pool: concurrent.futures.Executor,
  function: Callable[[Any], Any],
  batches: Iterable[Sequence[Any]],
  *,
  ahead: int = 2,
) -> Iterator[list[Any]]:
  """Yields `[function(x) for x in batch]`, working `ahead` batches in advance.

  An exception in a thread is raised here. Closing the iterator cancels all work
  that has not begun.
  """
  pending = collections.deque()
  try:
    for batch in batches:
      chunks = (batch[i : i + _CHUNK] for i in range(0, len(batch), _CHUNK))
      pending.append([pool.submit(_map, function, chunk) for chunk in chunks])
      if len(pending) > ahead:
        yield _results(pending.popleft())
    while pending:
      yield _results(pending.popleft())
  finally:
    for futures in pending:
      for future in futures:
        future.cancel()


def _map(function, chunk):
  return [function(item) for item in chunk]


def _results(futures):
  return [result for future in futures for result in future.result()]
