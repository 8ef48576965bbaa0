"""Pictures with captions: folders, tars, what is refused, and batches."""

import io
import itertools
import json
import tarfile

import jax
import numpy as np
from PIL import Image
import pytest

from mrl_jax.data.batches import stream
from mrl_jax.data.batches.damage import DamageLog
from mrl_jax.data.pairs import batches
from mrl_jax.data.pairs import datasets
from mrl_jax.data.pairs import sources
from mrl_jax.data.text import tokens as tokens_lib
from mrl_jax.models import packed
from mrl_jax.training import sharding

CAPTIONS = {
  'a.png': ['red one', 'red two', 'red three'],
  'deep/b.png': ['green one', 'green two'],
  'c.png': ['blue'],
  'd.png': ['white one', 'white two'],
}
COLORS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)]


def png(color) -> bytes:
  file = io.BytesIO()
  Image.new('RGB', (8, 8), color).save(file, 'png')
  return file.getvalue()


@pytest.fixture
def folder(tmp_path):
  """The pictures in a folder, without a table."""
  (tmp_path / 'deep').mkdir()
  for name, color in zip(CAPTIONS, COLORS, strict=True):
    (tmp_path / name).write_bytes(png(color))
  return tmp_path


def write_table(folder, suffix, rows):
  path = folder / f'metadata{suffix}'
  if suffix == '.jsonl':
    lines = [json.dumps({'file_name': x, 'text': y}) for x, y in rows]
  else:
    lines = ['file_name,text', *(f'{x},{y}' for x, y in rows)]
  path.write_text('\n'.join(lines) + '\n')


def write_tar(path, members):
  with tarfile.open(path, 'w') as tar:
    for name, data in members.items():
      member = tarfile.TarInfo(name)
      member.size = len(data)
      tar.addfile(member, io.BytesIO(data))


def captions(source) -> dict[str, tuple[str, ...]]:
  examples = [source.read(i) for i in range(len(source))]
  return {x.key: source.captions[x.label] for x in examples}


@pytest.mark.parametrize('kind', ['rows.csv', 'lists.jsonl', 'rows.parquet'])
def test_a_folder(kind, folder):
  rows = [(x, text) for x, texts in CAPTIONS.items() for text in texts]
  if kind == 'rows.parquet':
    pyarrow = pytest.importorskip('pyarrow')
    from pyarrow import parquet

    names, texts = zip(*rows, strict=True)
    table = pyarrow.table({'file_name': names, 'text': texts})
    parquet.write_table(table, folder / 'metadata.parquet')
  else:
    is_list = kind == 'lists.jsonl'
    write_table(folder, kind[-4:] if not is_list else '.jsonl',
                CAPTIONS.items() if is_list else rows)  # fmt: skip
  source = sources.open_folder(folder)
  assert captions(source) == {x: tuple(y) for x, y in CAPTIONS.items()}
  assert source.read(1).data == png(COLORS[2])  # In the order of their names.
  assert not source.left_out and len(source.listing()) == 2
  part = source.part(2, 4)
  assert [part.read(i).label for i in range(2)] == [2, 3]


def test_tars(tmp_path):
  a, b, c = map(png, COLORS[:3])
  first = {'x/1.jpg.png': a, 'x/1.txt': b'red', 'x/2.PNG': b}
  first |= {'x/2.json': json.dumps({'caption': ['green', 'lime', 3]}).encode()}
  write_tar(tmp_path / '0.tar', first)
  write_tar(tmp_path / '1.tar', {'3.txt': b'none', '4.png': c, '5.png': c,
                                 '5.txt': b'blue\n'})  # fmt: skip
  first.pop('x/1.jpg.png')
  source = sources.open_tars([tmp_path / '0.tar', tmp_path / '1.tar'])
  assert captions(source) == {
    '0.tar/x/2.PNG': ('green', 'lime'),
    '1.tar/5.png': ('blue',),
  }
  assert [source.read(i).data for i in range(2)] == [b, c]
  # A picture's ending is all behind the first dot, as WebDataset has it.
  assert source.left_out == (
    '2 captions without picture: 0.tar/x/1, 1.tar/3',
    '1 pictures without caption: 1.tar/4.png',
  )


def test_a_replaced_picture_or_caption_is_noticed(folder, tmp_path):
  write_table(folder, '.jsonl', CAPTIONS.items())
  before = sources.open_folder(folder).listing()
  assert sources.open_folder(folder).listing() == before
  (folder / 'c.png').write_bytes(png(COLORS[2]) + b'more')
  after = sources.open_folder(folder).listing()
  assert before['metadata.jsonl'] == after['metadata.jsonl']
  assert before['pictures'] != after['pictures']
  (folder / 'c.png').unlink()
  (folder / 'c.png').symlink_to('nothing.png')
  with pytest.raises(ValueError, match=r'c\.png cannot be read: No such file'):
    sources.open_folder(folder)
  found = []
  for text, color in ((b'red', 0), (b'led', 0), (b'red', 3)):
    data = png(COLORS[color])[: 70 if color else None]
    write_tar(tmp_path / '0.tar', {'1.png': data, '1.txt': text})
    found.append(sources.open_tars([tmp_path / '0.tar']).listing()['0.tar'])
  assert len(set(found)) == 3


def test_captions_of_tfds(tmp_path):
  """Features as `coco_captions` has them, and a feature of one caption."""
  tfds = pytest.importorskip('tensorflow_datasets')
  rows = [*zip(CAPTIONS.items(), COLORS, strict=True)]
  rows.append((('e.png', [' ']), COLORS[0]))

  class Captioned(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version('1.0.0')
    pkg_dir_path = tmp_path / 'code'

    def _info(self):
      features = {
        'image': tfds.features.Image(encoding_format='png'),
        'image/filename': tfds.features.Text(),
        'captions': tfds.features.Sequence(
          {'id': np.int64, 'text': tfds.features.Text()}
        ),
        'title': tfds.features.Text(),
      }
      return tfds.core.DatasetInfo(
        builder=self, features=tfds.features.FeaturesDict(features)
      )

    def _split_generators(self, _):
      return {'train': self._generate_examples()}

    def _generate_examples(self):
      for i, ((name, texts), color) in enumerate(rows):
        yield (
          i,
          {
            'image': io.BytesIO(png(color)),
            'image/filename': name,
            'captions': [{'id': j, 'text': x} for j, x in enumerate(texts)],
            'title': texts[0].upper(),
          },
        )

  builder = Captioned(data_dir=str(tmp_path), file_format='array_record')
  builder.download_and_prepare()
  path = f'tfds:{builder.data_dir}:train'
  source = datasets.open_pairs(path)
  assert captions(source) == {x: tuple(y) for x, y in CAPTIONS.items()}
  assert source.left_out == ('1 pictures without caption: e.png',)
  assert len(source.listing()) == 1
  titled = datasets.open_pairs(path, ('file_name', 'title'))
  assert captions(titled) == {x: (y[0].upper(),) for x, y in CAPTIONS.items()}
  colors = dict(zip(CAPTIONS, COLORS, strict=True))
  for i in range(4):
    example = source.part(i, i + 1).read(0)
    assert example.label == i
    image = Image.open(io.BytesIO(example.data))
    assert image.getpixel((0, 0)) == colors[example.key]
  for wrong, column, match in (
    (path, 'other', "one of captions 'other', .*; has "),
    (path[:-5] + 'dev', 'text', "split 'dev'"),
    ('tfds:no_such:train', 'text', "dataset 'no_such': not known to TFDS"),
    ('tfds:train', 'text', 'must be tfds:NAME:SPLIT'),
  ):
    with pytest.raises(ValueError, match=match) as error:
      datasets.open_pairs(wrong, ('file_name', column))
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('left', [0.3, 0.6, 0.99])
def test_a_tar_cut_short(left, tmp_path):
  path = tmp_path / '0.tar'
  noise = np.random.default_rng(0).bytes(2000)
  members = {f'{i}.{x}': noise for i in range(3) for x in ('png', 'bin')}
  write_tar(path, members | {'9.txt': b'red'})
  data = path.read_bytes()
  end = len(data.rstrip(b'\0'))
  path.write_bytes(data[: int(left * end)])
  with pytest.raises(ValueError, match=r'0\.tar: is damaged or cut short'):
    sources.open_tars([path])


def test_what_has_no_partner_is_counted_and_listed(folder):
  rows = [('a.png', 'red'), ('c.png', ' '), *((f'{i}', 'x') for i in range(12))]
  write_table(folder, '.csv', rows)
  source = sources.open_folder(folder)
  assert captions(source) == {'a.png': ('red',)}
  assert source.left_out == (
    '12 captions without picture: 0, 1, 10, 11, 2, 3, 4, 5, 6, 7 and 2 more',
    '3 pictures without caption: c.png, d.png, deep/b.png',
  )


def test_refuses(folder):
  with pytest.raises(ValueError, match='has 0 tables of captions'):
    sources.open_folder(folder)
  write_table(folder, '.jsonl', [('e.png', 'none')])
  with pytest.raises(ValueError, match='none is left; 1 captions without pict'):
    sources.open_folder(folder)
  with pytest.raises(ValueError, match="no column 'caption'"):
    sources.open_folder(folder, column_names=('file_name', 'caption'))


def test_batches_resume_and_draw_captions(folder):
  write_table(folder, '.jsonl', CAPTIONS.items())
  source = sources.open_folder(folder)
  texts = [text for x in source.captions for text in x]
  path = folder / 'tokenizer.json'
  tokens_lib.make_tokenizer(texts, 100, path)
  tokens = tokens_lib.Tokens(path, 6)

  def make(damage):
    return batches.PairBatches(
      source,
      2,
      mesh=sharding.make_mesh(1),
      seed=3,
      num_threads=2,
      tokens=tokens,
      crops=stream.Crops({0: 8}, None),
      damage=damage,
    )

  def take(start, count, damage=None):
    found = make(damage or DamageLog(0)).batches(start)
    return jax.device_get(list(itertools.islice(found, count)))

  found = take(0, 20)
  jax.tree.map(np.testing.assert_array_equal, take(7, 3), found[7:10])
  read = {}
  for batch in found:
    mask_NL = np.asarray(packed.mask(batch['token'], batch['length']))
    for row, label in enumerate(batch['label']):
      ids = batch['token'][row][mask_NL[row]].tolist()
      (text,) = (x for x in texts if tokens.ids([x])[0] == ids)
      assert text in source.captions[label]
      # The picture is the caption's.
      color = batch['image'][row, 0, 0]
      assert (color == np.asarray(Image.open(io.BytesIO(
        source.read(label).data)))[0, 0]).all()  # fmt: skip
      read.setdefault(int(label), set()).add(text)
  assert {i: len(x) for i, x in read.items()} == {
    i: len(x) for i, x in enumerate(source.captions)
  }
  (folder / 'c.png').write_bytes(b'damaged')
  damage = DamageLog(1)
  others = take(0, 4, damage)
  assert damage.keys == ['c.png']
  assert all(1 not in batch['label'] for batch in others)
