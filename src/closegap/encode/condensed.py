"""The smallest network that equals a given one on a region, for work on many subdomains.

Two ways to it. Composing (`encode.reduced`) leaves unstable neurons alone, each a function of the
input and of all units before it: right for convolutions, and where few neurons are unstable. Dense
chains may also be pruned: a neuron that is never positive on the region is left out with the
weights that read it, and nothing else changes. Trained networks have many of those, and a pruned
row costs a product with a few narrow layers where a composed one meets the input once for every
unit. Whichever needs fewer products is taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

import numpy as np
from jaxtyping import Float, Int

from closegap.bounds.chain import chain_nodes
from closegap.core.budget import Budget
from closegap.encode.gathered import gathered
from closegap.encode.reduced import ReducedNetwork, composed_entries, reduce_network
from closegap.graph import ops
from closegap.graph.entries import affine_entries
from closegap.graph.network import Network, Node

__all__ = ["condensed", "pruned_network"]

Bounds = Mapping[int, tuple[Float[np.ndarray, "N"], Float[np.ndarray, "N"]]]


def condensed(
    network: Network,
    bounds: Bounds,
    reach: Float[np.ndarray, "D"],
    *,
    worth: float,
    budget: Budget | None = None,
) -> ReducedNetwork | None:
    """The network pruned or composed, on the flat input.

    Args:
        network, bounds, reach: see `reduce_network`.
        worth: how many times the original's products the composed ones may take.
        budget: composing is given up when it ends.

    Returns:
        `None` where neither is cheaper, or the budget ended.
    """
    pruned = pruned_network(network, bounds, reach)
    if pruned is not None:
        if _entries(pruned.network) <= composed_entries(network, bounds):
            return pruned
        worth = min(worth, _entries(pruned.network) / _entries(network))
    reduced = reduce_network(network, bounds, reach, worth=worth, budget=budget)
    return pruned if reduced is None else gathered(reduced)


def pruned_network(
    network: Network, bounds: Bounds, reach: Float[np.ndarray, "D"]
) -> ReducedNetwork | None:
    """A chain of dense ReLU layers without the neurons that are never positive.

    It equals the original on the region exactly: the slack is zero.

    Args:
        network, bounds, reach: see `reduce_network`.

    Returns:
        `None` where the network is no such chain, reshapes what feeds a ReLU, or a layer has no
        other neurons.
    """
    ends_in_relu = isinstance(network.nodes[-1].op, ops.Relu)
    body = replace(network, nodes=network.nodes[:-1]) if ends_in_relu else network
    layers = chain_nodes(body)
    if layers is None:
        return None
    fed = layers if ends_in_relu else layers[:-1]
    if any(steps[-1] not in bounds for steps in fed):
        return None
    kept = [np.flatnonzero(~(bounds[steps[-1]][1] <= 0)) for steps in layers[:-1]]
    kept.append(np.arange(network.output_size))
    if not all(len(places) for places in kept):
        return None
    nodes = [Node(ops.Input(), (), (network.input_size,), "input")]
    read: Int[np.ndarray, "N"] | None = None
    origin, left, sizes = {}, {}, [reach]
    for steps, places in zip(layers, kept, strict=True):
        nodes += _affine([network.nodes[i] for i in steps], len(nodes), read, places)
        if steps is layers[-1] and not ends_in_relu:
            break
        lower, upper = (side[places] for side in bounds[steps[-1]])
        origin[len(nodes) - 1], left[len(nodes) - 1] = (steps[-1], places), (lower, upper)
        sizes.append(np.maximum(upper, 0))
        nodes.append(Node(ops.Relu(), (len(nodes) - 1,), (len(places),), nodes[-1].name))
        read = places
    made = Network(tuple(nodes), b"", network.digest, None, source=network.source)
    slack = {i: np.zeros(len(places)) for i, (_, places) in origin.items()}
    slack[made.output] = np.zeros(network.output_size)
    return ReducedNetwork(made, origin, left, slack, np.concatenate(sizes))


def _affine(
    steps: Sequence[Node],
    first: int,
    read: Int[np.ndarray, "N"] | None,
    written: Int[np.ndarray, "M"],
) -> list[Node]:
    """Dense steps without the columns and the rows that are left out; all columns where `None`."""
    made = []
    for place, node in enumerate(steps):
        op = cast(ops.Linear, node.op)
        weight, bias = op.weight, op.bias
        if place == 0 and read is not None:
            weight = weight[:, read]
        if node is steps[-1]:
            weight, bias = weight[written], bias[written]
        op = ops.Linear(np.ascontiguousarray(weight), np.ascontiguousarray(bias))
        made.append(Node(op, (first + place - 1,), (len(bias),), node.name))
    return made


def _entries(network: Network) -> int:
    """Entries of all matrices: the products one row needs."""
    return sum(
        affine_entries(node, [network.nodes[p] for p in node.inputs])
        for node in network.nodes[1:]
        if isinstance(node.op, ops.Linear)
    )
