"""A tree search without a network: the tree, frontier and slots under a bounder that costs nothing.

Bounds rise by a random amount with every split, the same in every run, and nothing ever closes, so
that the tree grows as wide as a search can make it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from closegap.search.frontier import Frontier
from closegap.search.slots import SlotStore
from closegap.search.tree import Tree

__all__ = ["Grown", "grow"]


@dataclass(frozen=True)
class Grown:
    """What a synthetic search held in the end.

    Attributes:
        nodes: of the tree.
        tree_bytes: of its columns.
        slot_bytes: reserved for warm starts.
        kept: warm starts held.
        plunged: steps that went depth first.
        balanced: no node was lost.
    """

    nodes: int
    tree_bytes: int
    slot_bytes: int
    kept: int
    plunged: int
    balanced: bool


def grow(nodes: int, width: int, memory: int, *, batch: int = 4096, seed: int = 0) -> Grown:
    """Search until the tree has so many nodes.

    Args:
        nodes: at least so many in the end.
        width: numbers in a warm start.
        memory: bytes that warm starts may take.
        batch: nodes split at a time.
        seed: of the bounds.
    """
    rng = np.random.default_rng(seed)
    tree, slots, frontier = Tree(), SlotStore(width, memory), Frontier()
    roots = tree.add_roots(np.array([-1.0]))
    slots.put(roots, np.zeros((1, width), np.float32))
    plunged = 0
    while len(tree) < nodes:
        picked = frontier.pick(tree, batch, slots.fullness)
        plunged += frontier.plunging
        starts, _ = slots.take(picked)
        children = tree.split(picked, rng.integers(0, width, len(picked)))
        tree.raise_lower(children, tree.lower(children) + rng.exponential(1e-6, len(children)))
        slots.put(children, np.concatenate([starts, starts]))
    return Grown(
        nodes=len(tree),
        tree_bytes=tree.nbytes,
        slot_bytes=slots.nbytes,
        kept=len(slots),
        plunged=plunged,
        balanced=tree.accounting().balanced,
    )
