"""Batches: from examples to arrays on the devices."""
