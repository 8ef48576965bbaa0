"""Prepares a dataset, or rewrites one with smaller images."""
