"""Measures speed and memory beside peers: each module is a command."""
