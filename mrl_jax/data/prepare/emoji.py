"""Makes a folder of emoji with their names, from two packages of npm.

    python -m mrl_jax.data.prepare.emoji datasets/emoji

downloads 78 MB from registry.npmjs.org and writes, with a `metadata.jsonl` of
captions in each folder and the subcategories of Unicode as class folders,

    train/    pictures of Twitter's style (CC-BY 4.0, emoji-datasource-twitter)
    val/      the same of the names that are held out, a tenth
    fluent/   Microsoft's style (MIT, @lobehub/fluent-emoji-3d), all names
"""

import argparse
from collections.abc import Mapping, Sequence
import hashlib
import io
import json
import pathlib
import tarfile
import urllib.error
import urllib.request

from mrl_jax.terminal import arguments
from mrl_jax.terminal import ending
from mrl_jax.workdir import files

REGISTRY = 'https://registry.npmjs.org'
TWITTER = 'emoji-datasource-twitter/-/emoji-datasource-twitter-16.0.0.tgz'
FLUENT = '@lobehub/fluent-emoji-3d/-/fluent-emoji-3d-1.1.0.tgz'
# SHA-256 of the packages, which the registry promises not to change.
_DIGESTS = {
  TWITTER: 'f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877',
  FLUENT: 'c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58',
}
_TABLE = 'emoji.json'
_SECONDS = 120


def write(folder: pathlib.Path, twitter: bytes, fluent: bytes) -> list[str]:
  """Writes the folder from both packages; returns a line for each split.

  Raises ValueError for packages of other content, or if the folder is there.
  """
  if folder.exists():
    raise ValueError(f'{folder} is there: remove it, or give another folder')
  first, second = _members(twitter), _members(fluent)
  if f'package/{_TABLE}' not in first:
    raise ValueError(f'{TWITTER} has no {_TABLE}')
  emojis = json.loads(first[f'package/{_TABLE}'])
  said = []
  with files.replacing_folder(folder) as temporary:
    splits: dict[str, list] = {'train': [], 'val': [], 'fluent': []}
    for emoji in emojis:
      image = emoji['image']
      picture = first.get(f'package/img/twitter/64/{image}')
      split = 'val' if is_held_out(emoji['name']) else 'train'
      if picture:
        splits[split].append((emoji, image, picture))
      image = image.replace('.png', '.webp')
      if picture := second.get(f'package/assets/{image}'):
        splits['fluent'].append((emoji, image, picture))
    for name, found in splits.items():
      if not found:
        raise ValueError(f'the packages have no pictures for {name}')
      _write_split(temporary / name, found)
      said.append(f'{name}: {len(found):,} pictures')
  return said


def is_held_out(name: str) -> bool:
  """Whether an emoji's name is one of the tenth that is not trained on."""
  return hashlib.sha256(name.encode()).digest()[0] % 10 == 0


def captions(emoji: Mapping) -> list[str]:
  """The names of an emoji, without repetition: `health worker`."""
  names = [emoji['name'] or '', *emoji['short_names']]
  plain = (x.lower().replace('_', ' ').replace('-', ' ') for x in names)
  return [*dict.fromkeys(' '.join(x.split()) for x in plain if x.strip())]


def _write_split(folder: pathlib.Path, found: Sequence[tuple]) -> None:
  lines = []
  for emoji, image, picture in found:
    path = folder / emoji['subcategory'] / image
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture)
    row = {'file_name': f'{emoji["subcategory"]}/{image}'}
    lines.append(json.dumps(row | {'text': captions(emoji)}) + '\n')
  files.write_text(folder / 'metadata.jsonl', ''.join(lines))


def _members(package: bytes) -> dict[str, bytes]:
  """The files of a package that may be needed, by their paths in it."""
  try:
    with tarfile.open(fileobj=io.BytesIO(package), mode='r:gz') as tar:
      return {
        member.name: tar.extractfile(member).read()
        for member in tar
        if member.isfile() and '/sheets' not in member.name
      }
  except (tarfile.TarError, EOFError, OSError) as error:
    raise ValueError(f'a package is damaged or cut short: {error}') from None


def _download(path: str) -> bytes:
  url = f'{REGISTRY}/{path}'
  try:
    with urllib.request.urlopen(url, timeout=_SECONDS) as response:
      data = response.read()
  except (urllib.error.URLError, OSError) as error:
    raise ValueError(f'{url} cannot be downloaded: {error}') from None
  if hashlib.sha256(data).hexdigest() != _DIGESTS[path]:
    raise ValueError(f'{url}: is not the package of which this was written')
  return data


def main(argv: Sequence[str] | None = None) -> None:
  parser = argparse.ArgumentParser(description='Makes a folder of emoji.')
  parser.add_argument('folder', type=arguments.path)
  folder = pathlib.Path(parser.parse_args(argv).folder)
  with ending.in_one_line():
    if folder.exists():
      raise ValueError(f'{folder} is there: remove it, or give another folder')
    for line in write(folder, _download(TWITTER), _download(FLUENT)):
      print(line)
    print(f'in {folder}')


if __name__ == '__main__':
  main()
