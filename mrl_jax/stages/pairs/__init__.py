"""The stages where the examples are pictures with captions."""
