"""The input pipeline: from stored images to batches on the devices."""
