"""Counts damaged images, which are tolerated up to a limit."""

import json
import threading

from mrl_jax.data.images.decode import DamagedImageError
from mrl_jax.training import sharding


class DamageLog:
  """Remembers which images could not be decoded. Threads may share it."""

  def __init__(self, limit: int):
    """`limit`: the most damaged images that a run tolerates."""
    self.limit = limit
    self._lock = threading.Lock()
    self._errors: dict[str, str] = {}
    self._reported = 0

  def add(self, key: str, error: DamagedImageError) -> None:
    """Counts an image, by its key, once; raises ValueError over the limit."""
    with self._lock:
      self._errors.setdefault(key, str(error))
      if len(self._errors) > self.limit:
        raise ValueError(
          f'{len(self._errors)} damaged images, more than max_damaged='
          f'{self.limit}: {self._describe(0)}'
        )

  def share(self) -> None:
    """Adds what other processes have found; all processes call it at once."""
    found = [json.dumps(pair) for pair in self._errors.items()]
    for key, error in map(json.loads, sharding.union(found)):
      self.add(key, DamagedImageError(error))

  def report(self) -> str:
    """One line on the images added since the last report; empty if none was."""
    with self._lock:
      new, self._reported = self._reported, len(self._errors)
      if new == self._reported:
        return ''
      return f'skipped damaged images: {self._describe(new)}'

  @property
  def keys(self) -> list[str]:
    """The keys of all damaged images, sorted."""
    with self._lock:
      return sorted(self._errors)

  def _describe(self, start: int) -> str:
    errors = list(self._errors.items())[start:]
    return ', '.join(f'{key} ({error})' for key, error in errors)
