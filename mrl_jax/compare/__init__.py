"""Compares finished runs with each other and with the paper's tables."""
