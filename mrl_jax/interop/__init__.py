"""Exported encoders, and the files of other software."""
