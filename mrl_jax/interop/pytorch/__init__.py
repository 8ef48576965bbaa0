"""Loads PyTorch checkpoints into the encoders, and writes state dicts."""
