"""Matryoshka Representation Learning in JAX (arXiv 2205.13147)."""
