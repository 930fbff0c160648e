"""Least distances: the tree over activation phases, and generic mixed-integer programs."""
