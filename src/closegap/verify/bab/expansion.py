"""Splitting nodes of a tree, at several units each while there are few of them."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from closegap.search.tree import Tree

__all__ = ["split_levels"]


def split_levels(
    tree: Tree,
    nodes: Int[np.ndarray, "B"],
    ranked: Int[np.ndarray, "B width"],
    points: Float[np.ndarray, "B width"],
    count: int,
) -> tuple[Int[np.ndarray, "leaves"], Int[np.ndarray, "leaves"]]:
    """Split open nodes until there are about `count` leaves below them.

    Args:
        tree: where the nodes are.
        nodes: open ones.
        ranked: units of each, best first; -1 where there are no more.
        points: where they are split.
        count: at most twice so many leaves, unless there are more nodes.

    Returns:
        the leaves, and for each of them the place of its node among `nodes`.
    """
    levels = max(1, int(np.log2(max(1, count / len(nodes)))))
    owner, leaves = np.arange(len(nodes)), nodes
    for level in range(min(levels, ranked.shape[1])):
        units = ranked[owner, level]
        can = units >= 0
        if not can.any():
            break
        children = tree.split(leaves[can], units[can], points[owner[can], level])
        leaves = np.concatenate([leaves[~can], children])
        owner = np.concatenate([owner[~can], owner[can], owner[can]])
    return leaves, owner
