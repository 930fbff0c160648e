"""Sound bounds on a network's values: interval and linear bound propagation, optimised.

One rule for each op (`rules`), one forward pass (`interval`), one backward pass (`backward`);
everything else composes them.
"""
