"""Search on a CPU."""
