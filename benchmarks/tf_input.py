"""Random resized crops by tf.data, for `benchmarks.input`."""

from collections.abc import Iterator

from mrl_jax.data.sources.example import Source


def batches(
  source: Source, threads: int, batch_size: int, size: int
) -> Iterator:
  """Batches of crops, which tf.data decodes and resizes in `threads`.

  The encoded images are in memory. Boxes are those of TensorFlow's own sampler,
  of which only the blocks that they touch are transformed.
  """
  import tensorflow as tf

  encoded = [source.read(index).data for index in range(len(source))]

  def crop(data):
    shape = tf.io.extract_jpeg_shape(data)
    begin, extent, _ = tf.image.sample_distorted_bounding_box(
      shape,
      tf.zeros((1, 0, 4)),
      aspect_ratio_range=(3 / 4, 4 / 3),
      area_range=(0.08, 1.0),
      max_attempts=10,
      use_image_if_no_bounding_boxes=True,
    )
    window = tf.concat([begin[:2], extent[:2]], 0)
    image = tf.image.decode_and_crop_jpeg(data, window, channels=3)
    image = tf.image.resize(image, (size, size), antialias=True)
    return tf.cast(tf.round(image), tf.uint8)

  dataset = tf.data.Dataset.from_tensor_slices(encoded).repeat()
  dataset = dataset.shuffle(len(encoded), seed=0)
  dataset = dataset.map(crop, num_parallel_calls=threads).batch(batch_size)
  options = tf.data.Options()
  options.threading.private_threadpool_size = threads
  for batch in dataset.prefetch(2).with_options(options):
    yield batch.numpy()
