"""Makes batches: from examples to arrays on the devices."""
