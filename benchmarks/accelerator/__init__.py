"""Everything worth measuring on an accelerator, in minutes; see `__main__`."""
