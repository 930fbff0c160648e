"""Rewrite maxima as ReLUs, for methods that know only ReLUs exactly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from closegap.graph import ops
from closegap.graph.network import Network, Node

__all__ = ["max_to_relu"]


def max_to_relu(network: Network) -> Network:
    """The same function with every Max a balanced tree of `max(a, b) = b + relu(a - b)`.

    A maximum over k entries becomes k - 1 ReLUs in ceil(log2 k) layers. Networks without Max come
    back as they are.
    """
    if not any(isinstance(node.op, ops.Max) for node in network.nodes):
        return network
    tree = _Rewriter()
    for node in network.nodes:
        tree.copy(node)
    return replace(network, nodes=tuple(tree.nodes))


class _Rewriter:
    """The new nodes, and where every old node's value is among them."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.place: list[int] = []

    def emit(self, op: ops.Op, inputs: tuple[int, ...], shape: tuple[int, ...], name: str) -> int:
        self.nodes.append(Node(op, inputs, shape, name))
        return len(self.nodes) - 1

    def copy(self, node: Node) -> None:
        """Append the node, or the ReLUs it becomes."""
        inputs = tuple(self.place[i] for i in node.inputs)
        if not isinstance(node.op, ops.Max):
            self.place.append(self.emit(node.op, inputs, node.shape, node.name))
            return
        windows = self.nodes[inputs[0]]
        value, width = inputs[0], windows.shape[-1]
        rows = windows.size // width
        while width > 1:
            value, width = self._halve(value, rows, width, node.name)
        self.place.append(self.emit(ops.Reshape(), (value,), node.shape, node.name))

    def _halve(self, value: int, rows: int, width: int, name: str) -> tuple[int, int]:
        """Pairwise maxima of the `width` columns of `[rows, width]`; an odd one is carried over.

        The columns come back in the order pairs first, so the carried one is compared next.
        """
        half, odd = width // 2, width % 2
        entries = np.arange(rows * width).reshape(rows, width)
        first = self._take(value, entries[:, :half], name)
        second = self._take(value, entries[:, half : 2 * half], name)
        shape = (rows * half,)
        minus = self.emit(ops.Scale(np.array([-1.0])), (second,), shape, name)
        difference = self.emit(ops.Add(), (first, minus), shape, name)
        excess = self.emit(ops.Relu(), (difference,), shape, name)
        greatest = self.emit(ops.Add(), (second, excess), shape, name)
        if not odd:
            return greatest, half
        pairs = self.emit(ops.Reshape(), (greatest,), (rows, half), name)
        last = self._take(value, entries[:, -1:], name)
        column = self.emit(ops.Reshape(), (last,), (rows, 1), name)
        joined = self.emit(ops.Concat(1), (pairs, column), (rows, half + 1), name)
        return joined, half + 1

    def _take(self, value: int, chosen: np.ndarray, name: str) -> int:
        """Selected flat entries; selections of selections are one."""
        indices = np.ascontiguousarray(chosen.reshape(-1)).astype(np.int64)
        node = self.nodes[value]
        while isinstance(node.op, ops.Reshape | ops.Take):
            if isinstance(node.op, ops.Take):
                indices = node.op.indices[indices]
            value = node.inputs[0]
            node = self.nodes[value]
        return self.emit(ops.Take(indices), (value,), (len(indices),), name)
