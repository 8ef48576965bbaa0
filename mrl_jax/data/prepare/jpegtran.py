"""Makes JPEGs files of `jpeg_grid` without decoding them, by jpegtran.

That is a program of libjpeg-turbo (Debian's libjpeg-turbo-progs). No package of
Python was found that can do it.
"""

import shutil
import subprocess

from mrl_jax.data.images import jpeg_box
from mrl_jax.data.images import jpeg_grid

_PROGRAM = 'jpegtran'


def version() -> str:
  """The program's version; raises ValueError if it is not there."""
  if not shutil.which(_PROGRAM):
    raise ValueError(
      f'--lossless: the program {_PROGRAM} is not found; Debian has it in '
      'libjpeg-turbo-progs'
    )
  command = [_PROGRAM, '-version']
  return subprocess.run(command, capture_output=True).stderr.decode().strip()


def to_grid(data: bytes) -> bytes:
  """Writes a JPEG anew with the same pixels and metadata, as a grid.

  Returns `data` itself if that cannot be done: for a file that is rare or
  damaged, or is a grid.
  """
  frame = jpeg_box.read_frame(data)
  if frame is None or frame.grid:
    return data
  blocks = jpeg_grid.segment_blocks(frame.width, frame.block)
  found = subprocess.run(
    [_PROGRAM, '-copy', 'all', '-optimize', '-restart', f'{blocks}B'],
    input=data,
    capture_output=True,
  )
  if found.returncode:
    return data
  try:
    marked = jpeg_grid.mark(found.stdout)
    written = jpeg_box.read_frame(marked)
  except ValueError:
    return data
  return marked if written and written[:2] == frame[:2] else data
