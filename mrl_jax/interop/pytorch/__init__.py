"""Loads PyTorch checkpoints into the encoders, and writes them."""
