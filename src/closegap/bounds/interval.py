"""Interval bound propagation: one forward pass, rounding outward."""

from __future__ import annotations

from collections.abc import Sequence

from closegap.bounds.records import ActivationBounds, Interval
from closegap.bounds.regions import InputSet
from closegap.bounds.rules import rule_of
from closegap.runtime.torch_network import TorchNetwork

__all__ = ["interval_of", "propagate"]


def interval_of(network: TorchNetwork, index: int, parents: Sequence[Interval]) -> Interval:
    """The interval of one node from those of its inputs; sound with rounding included."""
    node = network.network.nodes[index]
    return rule_of(node.op).interval(node, network.weights[index], parents)


def propagate(
    network: TorchNetwork, region: InputSet, known: ActivationBounds | None = None
) -> list[Interval]:
    """The interval of every node, in order.

    Args:
        network: weights and dtype.
        region: its boxes (a ball is bounded by its box).
        known: tighter intervals of some nodes, intersected on the way.
    """
    known = known or {}
    values = [Interval(region.lower, region.upper)]
    for index in range(1, len(network.network.nodes)):
        node = network.network.nodes[index]
        value = interval_of(network, index, [values[p] for p in node.inputs])
        values.append(value.intersect(known[index]) if index in known else value)
    return values
