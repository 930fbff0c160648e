"""Binarized networks in exact form: signs, weights of one size, integer thresholds."""
