"""The training step, on a mesh, saved and resumed."""
