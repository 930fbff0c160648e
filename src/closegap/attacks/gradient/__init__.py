"""Batched attacks: one loop, and one file a method."""
