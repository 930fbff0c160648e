"""Exact verification of binarized networks."""
