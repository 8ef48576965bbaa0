"""Which files of a folder tree are images, and which trees are no set."""

import json
import os
import pathlib
import shutil
import threading
import time

from PIL import Image
import pytest

from mrl_jax import stages
from mrl_jax.data.images import formats
from mrl_jax.data.sources import datasets
from mrl_jax.data.sources import directory
from mrl_jax.data.sources import folders
from mrl_jax.data.sources import image_tree
from mrl_jax.stages import config as config_lib
from tests import images


def keys(root, split='train'):
  opened = datasets.open_source(f'folder:{root}', split)
  return [opened.read(i).key for i in range(len(opened))]


def put(path: pathlib.Path, content: bytes | None = None) -> pathlib.Path:
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(images.encoded(0) if content is None else content)
  return path


@pytest.fixture
def root(tmp_path):
  return images.write_folder(tmp_path / 'mine')


def test_links_are_followed(root, tmp_path):
  other = put(tmp_path / 'other' / 'a.png')
  os.symlink(other.parent, root / 'train' / 'cat' / 'linked')
  os.symlink(other, root / 'train' / 'cat' / 'one.png')
  shutil.copytree(root / 'train' / 'dog', tmp_path / 'elks')
  os.symlink(tmp_path / 'elks', root / 'train' / 'elk')
  found = keys(root)
  assert {'train/cat/linked/a.png', 'train/cat/one.png'} <= set(found)
  assert sum(key.startswith('train/elk/') for key in found) == 3


@pytest.mark.parametrize('target', ['cat', 'train', 'mine', '.', '/'])
def test_circles_are_refused(root, target):
  targets = {'mine': root, '.': pathlib.Path('.'), '/': pathlib.Path('/')}
  targets |= {'cat': root / 'train' / 'cat', 'train': root / 'train'}
  os.symlink(targets[target], root / 'train' / 'cat' / 'loop')
  with pytest.raises(ValueError, match=r'cat/loop is a link .* a circle'):
    keys(root)


def test_a_link_between_classes_that_leads_back_is_a_circle(root):
  os.symlink(root / 'train' / 'dog', root / 'train' / 'cat' / 'x')
  os.symlink(root / 'train' / 'cat', root / 'train' / 'dog' / 'y')
  with pytest.raises(ValueError, match='a circle'):
    keys(root)


def test_hidden_files_thumbnails_and_litter_are_passed_over(root):
  before = keys(root)
  for name in (
    '.ipynb_checkpoints/0.png',
    '.thumbnails/0.png',
    '@eaDir/0.png/SYNOPHOTO_THUMB_M.jpg',
    '__MACOSX/._0.png',
    'thumbnails/0.png',
    'Thumbs.db',
    'desktop.ini',
    '.DS_Store',
    '._0.png',
    'ehthumbs.db',
  ):
    put(root / 'train' / 'cat' / name)
    put(root / 'train' / name)  # No class, either.
    put(root / name)
  put(root / 'README.md')
  put(root / 'train' / 'labels.csv')
  assert keys(root) == before


def test_all_offenders_are_named_at_once(root):
  cat = root / 'train' / 'cat'
  put(cat / 'notes.txt')
  put(cat / 'no_extension')
  put(cat / 'empty.jpg', b'')
  put(root / 'train' / 'dog' / 'text.PNG', b'what')
  put(root / 'train' / 'dog' / 'page.pdf', b'%PDF-1.4')
  put(root / 'train' / 'dog' / 'x.eps', b'%!PS-Adobe-3.0 EPSF-3.0')
  os.symlink('nowhere', cat / 'broken.png')
  os.symlink('loop.png', cat / 'loop.png')
  os.mkfifo(cat / 'pipe.png')
  put(cat / 'odd\n\udcff.txt')
  (root / 'train' / 'eel').mkdir()
  with pytest.raises(ValueError) as error:
    keys(root)
  line = str(error.value)
  assert line.isprintable() and line.encode()
  assert 'train: class folder eel is empty: remove it; 10 files' in line
  for part in (
    "cat/notes.txt (its extension is '.txt')",
    "cat/no_extension (its extension is '')",
    'cat/empty.jpg (it is empty)',
    'dog/text.PNG (its first bytes are of no known format)',
    "dog/page.pdf (its extension is '.pdf')",
    "dog/x.eps (its extension is '.eps')",
    'cat/broken.png (a link to nothing)',
    'cat/loop.png (a link to nothing)',
    'cat/pipe.png (no regular file)',
    r'cat/odd\n\udcff.txt',
  ):
    assert part in line
  for i in range(20):
    put(cat / f'{i}.txt')
  with pytest.raises(ValueError, match=r'30 files .* and 20 more: move'):
    keys(root)


@pytest.mark.parametrize(
  'image_format, extension',
  [
    ('JPEG', '.jfif'),
    ('JPEG', '.jpe'),
    ('JPEG', '.JPG'),
    ('PPM', '.ppm'),
    ('PPM', '.pgm'),
    ('AVIF', '.avif'),
    ('JPEG2000', '.jp2'),
    ('PNG', '.apng'),
    ('TGA', '.tga'),
    ('PCX', '.pcx'),
    ('ICO', '.ico'),
    ('QOI', '.qoi'),
    ('SGI', '.sgi'),
    ('DDS', '.dds'),
    ('WEBP', '.jpg'),  # Named wrongly, and an image all the same.
  ],
)
def test_what_pillow_reads_is_an_image(root, image_format, extension):
  Image.init()
  if image_format not in Image.SAVE:
    pytest.skip(f'this Pillow writes no {image_format}')
  data = images.encoded(0, size=(16, 16), image_format=image_format)
  path = put(root / 'train' / 'cat' / f'x{extension}', data)
  assert f'train/cat/{path.name}' in keys(root)
  assert formats.open_image(data).size == (16, 16)


@pytest.mark.parametrize(
  'names, match',
  [
    (
      ('Train/cat/0.png', 'Train/dog/0.png', 'Val/cat/0.png'),
      'Train, Val, which are splits and no classes, and no folder train: mv '
      r'.*/Train .*/train && mv .*/Val .*/val$',
    ),
    (
      ('training/cat/0.png', 'validation/cat/0.png', 'TEST/cat/0.png'),
      'mv .*/TEST .*/test && mv .*/training .*/train && mv .*/validation ',
    ),
    (('val/cat/0.png', 'val/dog/0.png'), 'val, .*belong into .*/train/<class>'),
    (('dev/cat/0.png', 'test/cat/0.png'), 'belong into .*/train/<class>'),
    (
      ('cat/0.png', 'dog/0.png', 'valid/0.png'),
      'valid among its class folders',
    ),
    (
      ('mine/cat/0.png', 'mine/dog/0.png'),
      r'a single class folder, mine: .* give folder:.*/mine if',
    ),
    (('mine/train/cat/0.png', 'mine/val/cat/0.png'), 'give folder:.*/mine if'),
    (('train/cat/0.png', 'val/cat/0.png'), 'a single class folder, cat'),
    (('cat/0.png', 'cat/1.png'), 'a single class folder, cat'),
    (
      ('train/Train/0.png', 'train/Val/0.png'),
      'Train, Val, which are splits and no classes: give folder:.*/train$',
    ),
    (
      ('a/cat/0.png', 'a/dog/0.png', 'b/elk/0.png'),
      r'only in folders of it, for a \(cat, dog\), b \(elk\): give folder:.*/a',
    ),
    (('cat/0.png', 'dog/train/0.png', 'dog/val/0.png'), r'dog \(train, val\)'),
    (('cat/0.png', 'dog/0.png', 'cat/Dog/1.png'), r'lie in cat \(Dog\): move'),
    (('0.png', '1.png'), '2 images lie in no folder: 0.png, 1.png: .*no class'),
    (('cat/0.png', 'dog/0.png', '1.jpg'), '1 image lies beside the class'),
    (('train/0.png', 'bus/0.png', 'car/0.png'), 'train: 1 image lies in no'),
    (
      ('cat/0.png', 'dog/0.png', 'runs/x/metrics.jsonl', 'runs/x/a/b.png'),
      'runs holds a workdir of a training',
    ),
  ],
)
def test_wrong_trees_are_refused(tmp_path, names, match):
  for name in names:
    put(tmp_path / name)
  with pytest.raises(ValueError, match=match) as error:
    keys(tmp_path)
  assert '\n' not in str(error.value)


def test_images_beside_the_classes_of_another_split(root):
  put(root / 'val' / '0.png')
  assert keys(root)
  with pytest.raises(ValueError, match=r'val: 1 image lies beside'):
    keys(root, 'val')


def test_what_is_right_is_left_alone(root, tmp_path):
  """Folders in a class that has images, and classes named as splits."""
  put(root / 'train' / 'cat' / 'more' / 'deep' / 'x.png')
  assert 'train/cat/more/deep/x.png' in keys(root)
  for name in ('train', 'test tube', 'bus'):  # A vehicle.
    put(root / 'train' / name / '0.png')
  assert 'train/train/0.png' in keys(root)
  assert not any(map(image_tree.names_a_split, ('invalid', 'trains', 'tested')))


def test_evaluation_folders_follow_the_rule(tmp_path):
  images.write_folder(tmp_path, splits=(), classes=('cat', 'dog'))
  put(tmp_path / 'cat' / '.ipynb_checkpoints' / '0.png')
  put(tmp_path / 'dog' / 'Thumbs.db', b'')
  opened = folders.open_classes(str(tmp_path), ('cat', 'dog'))
  assert len(opened) == 6 and opened.read(0).as_seen
  put(tmp_path / '0.png')
  with pytest.raises(ValueError, match='1 image lies beside'):
    folders.open_classes(str(tmp_path), ('cat', 'dog'))
  inner = images.write_folder(tmp_path / 'more', splits=('val',))
  with pytest.raises(
    ValueError, match=r'val: give folder:.*/more/val if it is'
  ):
    folders.open_classes(str(inner), ('cat', 'dog'))


@pytest.mark.parametrize('where', ['runs/x', 'train/runs', 'val/cat/x', '.'])
def test_a_workdir_in_the_images_is_refused_before_training(tmp_path, where):
  from configs import folder_mrl

  splits = () if where in ('runs/x', '.') else ('train', 'val')
  root = images.write_folder(tmp_path / 'mine', splits=splits, each=12)
  config = folder_mrl.get_config()
  config.dataset = f'folder:{root}'
  with pytest.raises(ValueError, match='lies in the images of folder:'):
    stages.run(config, root / where, ['train'])
  assert not (root / 'runs').exists()


def test_an_old_run_on_a_folder_goes_on_as_it_was_begun(tmp_path, capsys):
  from configs import digits_mrl
  from configs import folder_mrl

  config = folder_mrl.get_config()
  config.dataset = 'folder:/x'
  old = config.to_dict()
  del old['as_seen']
  (tmp_path / 'checkpoints').mkdir()
  (tmp_path / 'config.json').write_text(json.dumps(old))
  assert config_lib.as_begun(config, tmp_path).as_seen == 'no'
  assert 'as_seen: no, as the run in' in capsys.readouterr().out
  assert config.as_seen == 'auto'
  assert config_lib.as_begun(config, tmp_path / 'new').as_seen == 'auto'
  # A dataset of TFDS was, and is, read as it is stored.
  config = digits_mrl.get_config()
  assert config_lib.as_begun(config, tmp_path).as_seen == 'auto'


@pytest.mark.parametrize('seconds', [0, 1e-3])
def test_threads_read_what_is_waited_for(seconds, monkeypatch):
  """What a disk keeps waiting is read in threads from the second chunk on."""
  threads = set()

  def read(x):
    time.sleep(seconds)
    threads.add(threading.current_thread())
    return -x

  if not seconds:  # Nor is there anyone else on this machine's cores.
    monkeypatch.setattr(directory.time, 'perf_counter', time.thread_time)
  items = range(3 * directory._CHUNK + 1)
  assert [*directory.in_threads(read, items)] == [-x for x in items]
  assert (len(threads) > 1) == bool(seconds)
  with pytest.raises(ZeroDivisionError):
    [*directory.in_threads(lambda x: 1 / (x - items[-1]), items)]
