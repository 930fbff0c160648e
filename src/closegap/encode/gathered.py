"""The reduced network with its products with the input in a few matrices.

There are many more inputs than units. A backward pass that meets them layer by layer writes and
adds coefficients on all of them each time; here several layers take their parts of one product, so
the pass meets the inputs a few times, with matrices that are worth it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import numpy as np

from closegap.encode.reduced import ReducedNetwork
from closegap.graph import ops
from closegap.graph.network import Network, Node

__all__ = ["gathered"]

#: Rows that make a product with the input worth its passes over the coefficients.
_BLOCK = 256


def gathered(reduced: ReducedNetwork) -> ReducedNetwork:
    """The same network, its feeding nodes `Take`, or `Add` of a `Take` and a `Linear`.

    Source and target compute the same sums in another order; both lie within the slack, for what a
    pass over either of them rounds is counted there.
    """
    source = reduced.network
    inputs = source.input_size
    layers = [*sorted(reduced.origin), source.output]
    affine = [cast(ops.Linear, source.nodes[layer].op) for layer in layers]
    blocks = _blocks([len(op.bias) for op in affine])
    nodes, place, state, shared, first = [source.nodes[0]], dict[int, int](), -1, 0, 0
    for number, (layer, op) in enumerate(zip(layers, affine, strict=True)):
        name, count = source.nodes[layer].name, len(op.bias)
        if number in blocks:
            shared, first = len(nodes), 0
            nodes.append(_product(affine[number : blocks[number]], inputs))
        nodes.append(Node(ops.Take(np.arange(first, first + count)), (shared,), (count,), name))
        first += count
        if state >= 0:
            taken = len(nodes) - 1
            inner = ops.Linear(op.weight[:, inputs:].copy(), np.zeros(count))
            nodes.append(Node(inner, (state,), (count,), name))
            nodes.append(Node(ops.Add(), (taken, len(nodes) - 1), (count,), name))
        place[layer] = len(nodes) - 1
        if layer != source.output:
            state = _widened(nodes, source.nodes[layer + 1], state)
    return replace(
        reduced,
        network=Network(tuple(nodes), b"", source.digest, None, source=source.source),
        origin={place[i]: origin for i, origin in reduced.origin.items()},
        bounds={place[i]: bounds for i, bounds in reduced.bounds.items()},
        slack={place[i]: slack for i, slack in reduced.slack.items()},
    )


def _blocks(counts: list[int]) -> dict[int, int]:
    """Where each block of layers begins, and where it ends."""
    blocks, begin, rows = dict[int, int](), 0, 0
    for layer, count in enumerate(counts):
        rows += count
        if rows >= _BLOCK or layer == len(counts) - 1:
            blocks[begin] = layer + 1
            begin, rows = layer + 1, 0
    return blocks


def _product(affine: list[ops.Linear], inputs: int) -> Node:
    """The part of some layers that reads the input, and their bias."""
    weight = np.concatenate([op.weight[:, :inputs] for op in affine])
    bias = np.concatenate([op.bias for op in affine])
    return Node(ops.Linear(weight, bias), (0,), (len(bias),), "inputs")


def _widened(nodes: list[Node], unit: Node, state: int) -> int:
    """The activation of the last layer, behind the units before it; returns where they are."""
    nodes.append(Node(unit.op, (len(nodes) - 1,), unit.shape, unit.name))
    if state < 0:
        return len(nodes) - 1
    size = nodes[state].size + unit.size
    nodes.append(Node(ops.Concat(0), (state, len(nodes) - 1), (size,), "state"))
    return len(nodes) - 1
