"""Pairs of a picture and its captions."""
