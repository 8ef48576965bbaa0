"""The message in which TFDS stores an example."""

import contextlib

import numpy as np
import pytest
import tensorflow_datasets as tfds

from mrl_jax.data.sources import tf_example

FEATURES = tfds.features.FeaturesDict(
  {
    'image': tfds.features.Text(),
    'label': np.int64,
    'several': tfds.features.Sequence(np.int64),
    'score': np.float32,
  }
)


def serialized(**values) -> bytes:
  values = {'image': b'', 'label': 0, 'several': [], 'score': 0.5} | values
  return FEATURES.serialize_example(FEATURES.encode_example(values))


@pytest.mark.parametrize('label', [0, 1, 127, 128, -1, 2**63 - 1, -(2**63)])
@pytest.mark.parametrize('length', [0, 1, 127, 128, 70_000])
def test_values_are_those_of_tfds(label, length):
  image = bytes(length)
  several = [label, 3, 300]
  record = serialized(image=image, label=label, several=several)
  found = tf_example.parse(record)
  assert found == {'image': [image], 'label': [label], 'several': several}


def test_an_empty_list():
  assert tf_example.parse(serialized())['several'] == []


def test_numbers_that_are_not_packed():
  # Example, Features, an entry 'n', a Feature with an Int64List of 5 and 300.
  record = b'\x0a\x0e\x0a\x0c\x0a\x01n\x12\x07\x1a\x05\x08\x05\x08\xac\x02'
  assert tf_example.parse(record) == {'n': [5, 300]}


def test_broken_messages():
  record = serialized(image=b'abc', several=[1, 300])
  for end in range(1, len(record)):
    with pytest.raises(ValueError):
      tf_example.parse(record[:end])
  for broken in (b'\x0f', b'\x0a\x05\x0a', b'\x0a' + b'\x80' * 12):
    with pytest.raises(ValueError):
      tf_example.parse(broken)


def test_mutations_raise_value_errors_alone():
  rng = np.random.default_rng(0)
  record = serialized(image=b'abc' * 9, several=[1, 300])
  for _ in range(500):
    broken = bytearray(record)
    broken[rng.integers(len(broken))] = rng.integers(256)
    with contextlib.suppress(ValueError):
      tf_example.parse(bytes(broken))
