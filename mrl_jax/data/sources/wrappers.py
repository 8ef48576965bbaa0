"""Sources that change the examples of another source as they are read."""

import io

from mrl_jax.data.images import decode
from mrl_jax.data.sources import provenance
from mrl_jax.data.sources.example import Example
from mrl_jax.data.sources.example import read_checked
from mrl_jax.data.sources.example import Source


class Relabelled:
  """Gives each example the label of its class's name in other classes."""

  def __init__(self, source: Source, classes: tuple[str, ...]):
    """`classes`: the names by the new labels; one that is missing gets -1."""
    self._source = source
    self._label = provenance.labels(source.class_names, classes)
    self.num_classes, self.class_names = len(classes), classes

  def __len__(self) -> int:
    return len(self._source)

  def read(self, index: int) -> Example:
    # A label of -1, which is no class, must not become the last one.
    example = read_checked(self._source, index)
    return example._replace(label=self._label[example.label])

  def labels(self, index: int) -> tuple[int, ...]:
    """All classes of an example, where the source has several."""
    return tuple(self._label[label] for label in self._source.labels(index))


class Cropped:
  """Cuts `border` pixels off each side of an image."""

  def __init__(self, source: Source, border: int):
    self._source, self._border = source, border
    self.num_classes = source.num_classes
    self.class_names = source.class_names

  def __len__(self) -> int:
    return len(self._source)

  def read(self, index: int) -> Example:
    example = self._source.read(index)
    try:
      image = decode.open_rgb(example.data, as_seen=example.as_seen)
    except decode.DamagedImageError:
      return example  # Whoever decodes it counts it.
    width, height = image.size
    border = self._border
    if min(width, height) <= 2 * border:
      raise ValueError(
        f'{example.key}: {width}x{height} pixels: must be more than the border '
        f'of {border} on each side'
      )
    buffer = io.BytesIO()
    box = (border, border, width - border, height - border)
    image.crop(box).save(buffer, 'BMP')
    return example._replace(data=buffer.getvalue(), as_seen=False)
