"""The stages where the examples are texts."""
