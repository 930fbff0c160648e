"""Branch and bound on the bounds of single neurons."""
