"""Lists the images of class folders; refuses trees that cannot be a dataset.

A split is a folder of class folders, and an image belongs to the class folder
that it lies in. Folders within a class folder are read, too, if images lie in
the class folder itself; links to files and folders are followed.

Passed over are hidden names (with a dot first, such as .ipynb_checkpoints),
folders of thumbnails and of the system (`directory.LITTER_FOLDERS`), and what
file managers leave (`directory.LITTER_FILES`). All else in a class folder must
be an image that Pillow reads, by its extension and its first bytes.

Refused, with what would be right, is a tree that can only be meant otherwise: a
single class, classes named as splits are (`Train`, `Val`), images beside the
class folders, class folders within class folders, links that lead in a circle.
"""

from collections.abc import Collection, Sequence
import os
import pathlib
import re

from mrl_jax.data.images import formats
from mrl_jax.data.sources import directory
from mrl_jax.data.sources.directory import first
from mrl_jax.data.sources.directory import printable

FOLDER_PREFIX = 'folder:'
_SPLIT = re.compile(
  r'(train(ing)?|val(id(ation)?)?|test(ing)?|dev(el)?|eval(uation)?|holdout)'
  r'([-_ ]?(set|split|data|images?|imgs))?[-_ ]?\d*',
  re.IGNORECASE,
)
# Files by which a workdir of this project is recognised.
_WORKDIR_FILES = frozenset(['stages.json', 'metrics.jsonl'])


def names_a_split(name: str) -> bool:
  """Whether a folder is named as splits are: Train, valid, test2."""
  return bool(_SPLIT.fullmatch(name))


def check_classes(path: pathlib.Path, *, splits: bool) -> tuple[str, ...]:
  """Returns the names of the class folders in a folder, sorted.

  In the folder of a split (`splits`) a class may be named as splits are, unless
  all of them are. Raises ValueError if there are none or just one, they are
  splits, or images lie beside them.
  """
  names = directory.folder_names(path)
  check_beside(path, names)
  if not names:
    raise ValueError(f'{printable(path)}: no class folders in it')
  named_so = [name for name in names if names_a_split(name)]
  if named_so and (not splits or len(named_so) == len(names)):
    raise ValueError(_named_as_splits(path, names, named_so, splits))
  if len(names) == 1:
    inner = path / names[0]
    below = directory.folder_names(inner)
    advice = 'give each class a folder'
    if below:
      advice = (
        f'give {FOLDER_PREFIX}{printable(inner)} if its folders are meant'
      )
    raise ValueError(
      f'{printable(path)} has a single class folder, {printable(names[0])}: '
      f'there must be two classes or more: {advice}'
    )
  return names


def images(
  path: pathlib.Path, classes: Sequence[str], *, check: bool = True
) -> list[list[str]]:
  """Lists the images of each class folder: sorted paths relative to `path`.

  Checks the first bytes of every file, which is cheaper than failing hours
  later; with `check=False` files are only listed. Raises ValueError if some
  files are not images, or a class folder has none, or holds class folders.
  """
  found = [sorted(directory.walk(path, name)) for name in classes]
  names = [name for names in found for name in names]
  bad = _not_images(path, names) if check else {}
  problems = _wrong_shapes(path, classes, found, bad)
  if bad:
    reasons = [f'{printable(name)} ({why})' for name, why in bad.items()]
    what = f'{len(bad):,} files are not images: {first(reasons)}'
    if len(bad) == 1:
      (name, why), *_ = bad.items()
      what = f'{printable(name)} is not an image ({why})'
    problems.append(f'{what}: move what is no image out of the class folders')
  if problems:
    raise ValueError(f'{printable(path)}: {"; ".join(problems)}')
  return found


def _not_images(root: pathlib.Path, names: Sequence[str]) -> dict[str, str]:
  """Maps the files that are not images to the reason."""
  extensions = formats.extensions()

  def problem(name):
    path = os.path.join(root, name)
    extension = os.path.splitext(name)[1].lower()
    if not os.path.isfile(path):
      is_link = os.path.islink(path)
      return 'a link to nothing' if is_link else 'no regular file'
    if extension not in extensions:
      return f'its extension is {printable(extension)!r}'
    try:
      with open(path, 'rb') as file:
        head = file.read(formats.HEAD)
    except OSError as error:
      return f'it cannot be read: {error.strerror}'
    if not head:
      return 'it is empty'
    if not formats.is_image(head, extension):
      return 'its first bytes are of no known format'
    return ''

  reasons = directory.in_threads(problem, names)
  return {name: why for name, why in zip(names, reasons, strict=True) if why}


def _wrong_shapes(
  root: pathlib.Path,
  classes: Sequence[str],
  found: Sequence[Sequence[str]],
  bad: Collection[str],
) -> list[str]:
  """Problems of the class folders: no images in one, or a level too many."""
  empty, workdirs, nested, mixed, inner = [], [], [], [], ''
  lower = {name.lower() for name in classes}
  for name, names in zip(classes, found, strict=True):
    below = {x.split(os.sep)[1] for x in names if x.count(os.sep) > 1}
    others = sorted(x for x in below if x.lower() in lower - {name.lower()})
    if not names:
      empty.append(printable(name))
    elif any(os.path.basename(x) in _WORKDIR_FILES for x in names):
      workdirs.append(printable(name))
    elif below and not any(
      x.count(os.sep) == 1 and x not in bad for x in names
    ):
      inner = inner or printable(root / name)
      nested.append(
        f'{printable(name)} ({first([*map(printable, sorted(below))], 3)})'
      )
    elif others:
      mixed.append(f'{printable(name)} ({first([*map(printable, others)], 3)})')
  problems = []
  if workdirs:
    problems.append(
      f'{first(workdirs)} holds a workdir of a training: move it out of the '
      'dataset'
    )
  if empty:
    problems.append(f'class folder {first(empty)} is empty: remove it')
  if nested:
    problems.append(
      f'no image lies in the class folder itself, only in folders of it, for '
      f'{first(nested)}: give {FOLDER_PREFIX}{inner} if those are the classes, '
      'or move the images up into the class folder'
    )
  if mixed:
    problems.append(
      f'folders of other classes lie in {first(mixed)}: move them beside it'
    )
  return problems


def check_beside(path: pathlib.Path, names: Sequence[str]) -> None:
  """Raises ValueError if images lie in a folder beside its class folders."""
  extensions = formats.extensions()
  beside = [
    printable(name)
    for name in directory.file_names(path)
    if os.path.splitext(name)[1].lower() in extensions
  ]
  if beside:
    where = 'beside the class folders, in none' if names else 'in no folder'
    lie = 'image lies' if len(beside) == 1 else 'images lie'
    raise ValueError(
      f'{printable(path)}: {len(beside):,} {lie} {where}: {first(beside)}: '
      'there must be a folder for each class, with its images in it'
      + ('' if names else '; no class folders are there')
    )


def _named_as_splits(
  path: pathlib.Path, names: Sequence[str], splits: Sequence[str], below: bool
) -> str:
  """The error where `splits` among the folders `names` are named as splits.

  `below`: whether `path` is itself the folder of a split.
  """
  listed = first([*map(printable, splits)])
  if below:
    return (
      f'{printable(path)} has the folders {listed}, which are splits and no '
      f'classes: give {FOLDER_PREFIX}{printable(path)}'
    )
  train = printable(path / 'train')
  if len(splits) < len(names):
    return (
      f'{printable(path)}: {listed} among its class folders is named as a '
      f'split: move all class folders into {train} if it is a class, or move '
      'it out'
    )
  moves = []
  for name in splits:
    kinds = [x for x in ('train', 'val', 'test') if name.lower().startswith(x)]
    if kinds and kinds[0] != name:
      moves.append(f'mv {printable(path / name)} {printable(path / kinds[0])}')
  if not any(move.endswith('/train') for move in moves):
    moves = [f'the images to train on belong into {train}/<class>']
  return (
    f'{printable(path)} has the folders {listed}, which are splits and no '
    f'classes, and no folder train: {" && ".join(moves)}'
  )
