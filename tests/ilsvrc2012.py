"""Small archives in the layout of ILSVRC2012, for tests.

The images are crops of photographs that scikit-learn and scikit-image
install along with their code, so nothing is downloaded.
"""

import io
import itertools
import pathlib
import tarfile

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
