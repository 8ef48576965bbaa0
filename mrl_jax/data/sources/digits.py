"""scikit-learn's handwritten digits as a TFDS dataset.

1,797 real 8x8 images (Alpaydin & Kaynak, 1998) that come with scikit-learn: no
network, and the same data path as any other TFDS dataset.
"""

import io

from PIL import Image
import tensorflow_datasets as tfds


class Digits(tfds.core.GeneratorBasedBuilder):
  """Every fourth image is in the split test: 1,348 train, 449 test."""

  name = 'digits'
  VERSION = tfds.core.Version('1.0.0')

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict(
        {
          'image': tfds.features.Image(shape=(8, 8, 1), encoding_format='png'),
          'label': tfds.features.ClassLabel(num_classes=10),
        }
      ),
      supervised_keys=('image', 'label'),
    )

  def _split_generators(self, dl_manager):
    return {
      split: self._generate_examples(split) for split in ('train', 'test')
    }

  def _generate_examples(self, split: str):
    from sklearn import datasets

    digits = datasets.load_digits()
    for index, (pixels, label) in enumerate(
      zip(digits.images, digits.target, strict=True)
    ):
      if (index % 4 == 3) == (split == 'test'):
        # PNG bytes, since TFDS needs TensorFlow to encode an array itself.
        buffer = io.BytesIO()
        image = Image.fromarray((pixels * (255 / 16)).round().astype('uint8'))
        image.save(buffer, format='PNG')
        buffer.seek(0)
        yield index, {'image': buffer, 'label': int(label)}
