"""What the widths know: arrays in, arrays out; no models and no datasets."""
