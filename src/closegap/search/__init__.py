"""Search: a tree as a struct of arrays, and its accounting. Knows no network."""
