"""Attacks on binarized networks: search among signs, target propagation, integer programs."""
