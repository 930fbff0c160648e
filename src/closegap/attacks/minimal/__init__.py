"""Attacks of least distance: how near is a counterexample? Batched over images and restarts."""
