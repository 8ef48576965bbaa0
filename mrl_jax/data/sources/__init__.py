"""Sources of examples: TFDS datasets, folders of images, .npy files."""
