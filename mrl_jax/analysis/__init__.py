"""Analyses of predictions and embeddings at several widths, on arrays alone."""
