"""Proofs: incomplete bounds, and mixed-integer programming."""
