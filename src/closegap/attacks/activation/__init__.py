"""Attacks in the space of activations: they search among linear regions, not along gradients."""
