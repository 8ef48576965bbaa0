"""Writes rows for a vector database."""
