"""Small archives in the layout of ILSVRC2012 and of its kin, for tests.

The images are crops of photographs that scikit-learn and scikit-image
install along with their code, so nothing is downloaded.
"""

from collections.abc import Sequence
import gzip
import io
import itertools
import json
import pathlib
import tarfile
import zipfile

from PIL import Image
import skimage.data
from sklearn import datasets
import tensorflow_datasets as tfds

_PHOTOGRAPHS = ('astronaut', 'chelsea', 'coffee', 'rocket', 'retina')

# Maps file names to labels (synsets such as 'n01440764') and JPEGs.
Examples = dict[str, tuple[str, bytes]]


def write_tars(
  manual_dir: str | pathlib.Path,
  *,
  num_classes: int = 4,
  train_per_class: int = 3,
  num_validation: int = 5,
) -> dict[str, Examples]:
  """Writes the two archives and returns what is in them, by split.

  The first classes of ImageNet are used for training. The validation labels
  come with TFDS, which assigns them to the sorted file names, so they can be
  of any class. Every fifth image is grayscale, as some of ImageNet's are.
  """
  manual_dir = pathlib.Path(manual_dir)
  manual_dir.mkdir(parents=True, exist_ok=True)
  photographs = _photographs()
  jpegs = (_jpeg(photographs, i) for i in itertools.count())
  train, archives = {}, {}
  for synset in synsets()[:num_classes]:
    names = [f'{synset}_{10 + 7 * i}.JPEG' for i in range(train_per_class)]
    files = {name: next(jpegs) for name in names}
    train |= {name: (synset, jpeg) for name, jpeg in files.items()}
    archives[f'{synset}.tar'] = _tar(files)
  labels = _lines('validation_labels.txt')[:num_validation]
  validation = {
    f'ILSVRC2012_val_{i:08}.JPEG': (synset, next(jpegs))
    for i, synset in enumerate(labels, start=1)
  }
  # TFDS sorts the names, so the order in this archive must not matter.
  files = {name: validation[name][1] for name in reversed(validation)}
  (manual_dir / 'ILSVRC2012_img_train.tar').write_bytes(_tar(archives))
  (manual_dir / 'ILSVRC2012_img_val.tar').write_bytes(_tar(files))
  return {'train': train, 'validation': validation}


def write_sets(manual_dir: str | pathlib.Path) -> dict[str, Examples]:
  """Writes archives of other sets as their authors pack them.

  Returns what is in them, by the datasets' names, keyed as TFDS names the
  files.
  """
  manual_dir = pathlib.Path(manual_dir)
  manual_dir.mkdir(parents=True, exist_ok=True)
  photographs = _photographs()
  jpegs = (_jpeg(photographs, i) for i in itertools.count(1))
  numbers = [2, 10, 999]  # As folders they sort otherwise.
  a = {
    f'imagenet-a/{synset}/0.00{i}_digital clock _ fan_0.86.jpg': next(jpegs)
    for i, synset in enumerate(['n01498041', 'n12267677'])
  }
  r = {
    f'imagenet-r/{synset}/art_{i}.jpg': next(jpegs)
    for synset in ['n01443537', 'n07873807']
    for i in range(2)
  }
  v2 = {
    f'imagenetv2-matched-frequency-format-val/{i}/4f1a.jpeg': next(jpegs)
    for i in numbers
  }
  sketch = {
    f'sketch/{synsets()[i]}/sketch_0.JPEG': next(jpegs) for i in numbers
  }
  readme = {'imagenet-a/README.txt': b'', 'imagenet-r/README.txt': b''}
  (manual_dir / 'imagenet-a.tar').write_bytes(_tar(readme | a))
  (manual_dir / 'imagenet-r.tar').write_bytes(_tar(readme | r))
  name = 'imagenetv2-matched-frequency.tar.gz'
  (manual_dir / name).write_bytes(gzip.compress(_tar(v2)))
  with zipfile.ZipFile(manual_dir / 'ImageNet-Sketch.zip', 'w') as archive:
    for name, jpeg in sketch.items():
      archive.writestr(name, jpeg)
  found = {
    'imagenet_a': _by_folder(a),
    'imagenet_r': _by_folder(r),
    'imagenet_v2': {
      key: (synsets()[int(number)], jpeg)
      for key, (number, jpeg) in _by_folder(v2).items()
    },
    'imagenet_sketch': _by_folder(sketch),
  }
  # TFDS has this one's names without their folder.
  found['imagenet_a'] = {
    key.partition('/')[2]: example
    for key, example in found['imagenet_a'].items()
  }
  return found


def write_real(
  manual_dir: str | pathlib.Path, labels: Sequence[Sequence[int]]
) -> None:
  """Writes the classes of the validation images, in the order of the names."""
  text = json.dumps([*map(list, labels)])
  (pathlib.Path(manual_dir) / 'real.json').write_text(text)


def _by_folder(files: dict[str, bytes]) -> Examples:
  """Of `<top>/<class>/<name>`, keyed without the top."""
  return {
    name.partition('/')[2]: (name.split('/')[1], data)
    for name, data in files.items()
  }


def _photographs() -> list[Image.Image]:
  arrays = datasets.load_sample_images().images
  arrays += [getattr(skimage.data, name)() for name in _PHOTOGRAPHS]
  return [Image.fromarray(array) for array in arrays]


def _jpeg(photographs: list[Image.Image], i: int) -> bytes:
  """Returns the i-th crop, whose sides have 60 to 120 pixels."""
  photograph = photographs[i % len(photographs)]
  width, height = 60 + 37 * i % 61, 60 + 23 * i % 61
  left = 101 * i % (photograph.width - width)
  top = 67 * i % (photograph.height - height)
  crop = photograph.crop((left, top, left + width, top + height))
  buffer = io.BytesIO()
  crop.convert('L' if i % 5 == 4 else 'RGB').save(buffer, 'JPEG')
  return buffer.getvalue()


def synsets() -> list[str]:
  """The synset of each label."""
  return _lines('labels.txt')


def _lines(name: str) -> list[str]:
  path = tfds.core.tfds_path(f'datasets/imagenet2012/{name}')
  return path.read_text().split()


def _tar(files: dict[str, bytes]) -> bytes:
  buffer = io.BytesIO()
  with tarfile.open(fileobj=buffer, mode='w') as tar:
    for name, data in files.items():
      info = tarfile.TarInfo(name)
      info.size = len(data)
      tar.addfile(info, io.BytesIO(data))
  return buffer.getvalue()
