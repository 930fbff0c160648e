"""Which neurons to take together.

Source: Mueller et al., PRIMA, POPL 2022 (subsets that overlap little). Here subsets are ranked
first: neurons at which the final bound loses much, and whose inputs are correlated.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
from jaxtyping import Float, Int

__all__ = ["correlated_pairs", "sparse_cover"]


def correlated_pairs(
    rows: Float[np.ndarray, "N D"], losses: Float[np.ndarray, "N"]
) -> Float[np.ndarray, "N N"]:
    """How much each pair promises: both losses' geometric mean times the cosine of their rows.

    Args:
        rows: each neuron's input as a linear function, in units of the inputs' ranges.
        losses: what the final bound loses at each neuron.
    """
    length = np.linalg.norm(rows, axis=1)
    unit = rows / np.where(length > 0, length, 1.0)[:, None]
    weight = np.sqrt(np.maximum(losses, 0.0))
    return np.asarray(np.abs(unit @ unit.T) * weight[:, None] * weight)


def sparse_cover(pairs: Float[np.ndarray, "N N"], size: int, most: int) -> Int[np.ndarray, "G k"]:
    """Groups of `size` neurons that promise most, no pair of neurons in two of them.

    Args:
        pairs: what each pair promises, symmetric; a group promises the sum. Pairs without promise
            are never alone in a group.
        size: k.
        most: so many groups at most.
    """
    count = len(pairs)
    if count < size:
        return np.zeros((0, size), np.int64)
    subsets = np.array(list(combinations(range(count), size)))
    inside = list(combinations(range(size), 2))
    worth = sum(pairs[subsets[:, a], subsets[:, b]] for a, b in inside)
    order = np.argsort(-worth, kind="stable")
    order = order[worth[order] > 0]
    used = np.zeros((count, count), dtype=bool)
    left, right = (list(side) for side in zip(*inside, strict=True))
    taken: list[int] = []
    for place in order:
        group = subsets[place]
        if used[group[left], group[right]].any():
            continue
        used[group[left], group[right]] = True
        taken.append(int(place))
        if len(taken) == most:
            break
    return subsets[taken].reshape(-1, size)
