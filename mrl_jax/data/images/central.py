"""Where the evaluation view lies in an image."""

from mrl_jax.data.images.orientation import Box

Size = tuple[int, int]


def resized(image: Size, resize: int) -> Size:
  """An image's width and height after its shorter side became `resize`.

  Rounded as in torchvision.
  """
  shorter = min(image)
  return image[0] * resize // shorter, image[1] * resize // shorter


def corner(image: Size, size: int) -> Size:
  """Left and top of the central square of `size` pixels, as in torchvision."""
  return round((image[0] - size) / 2), round((image[1] - size) / 2)


def box(image: Size, resize: int, size: int) -> tuple[Box, tuple[float, float]]:
  """The box of an image that is resized to the central square of `size`.

  Its shorter side would become `resize`. Returns the box, and how far pixels
  beside it contribute to the square, across and down.
  """
  new_size = resized(image, resize)
  across, down = image[0] / new_size[0], image[1] / new_size[1]
  left, top = corner(new_size, size)
  found = (
    left * across, top * down, (left + size) * across, (top + size) * down,
  )  # fmt: skip
  return found, (max(across, 1) + 1, max(down, 1) + 1)
