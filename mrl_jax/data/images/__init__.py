"""Decodes images: from encoded bytes to RGB pixels."""
