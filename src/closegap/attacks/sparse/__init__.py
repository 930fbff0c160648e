"""Exact least distances: a mixed-integer solver, or a tree of our own."""
