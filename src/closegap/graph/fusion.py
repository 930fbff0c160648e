"""Merge affine ops where the result computes exactly the same and is not larger.

Exact means over the real numbers: every merged weight is rounded once, to float64. Weights that
are all whole numbers (binarized layers) are never scaled: float32 adds them exactly, so their
ties break as in the ONNX file, and solvers find the +-1 they look for. Nothing is merged where a
product could underflow.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from closegap.core.numerics import FLOAT64_UNIT
from closegap.graph import ops
from closegap.graph.merges import MERGES, Merge, does_nothing, rearranged
from closegap.graph.network import Network, Node

__all__ = ["fuse_affine", "least_size", "products_are_normal"]

Array: TypeAlias = NDArray[np.float64]
#: Merged weights below this would lose digits, or vanish.
_LEAST_PRODUCT = float(np.finfo(np.float64).smallest_normal) / FLOAT64_UNIT
Elementwise: TypeAlias = ops.Relu | ops.LeakyRelu | ops.Sigmoid | ops.Tanh | ops.Sign


def fuse_affine(network: Network) -> Network:
    """The same function with fewer nodes.

    Chains of scales and shifts (a batch normalisation, an input normalisation) go into the linear
    or convolutional op before or after them, consecutive linear ops become one where that holds no
    more weights, reshapes and transposes that do nothing vanish, and the pattern Sign, add a
    little, Sign becomes a sign with `sign(0) = +1`. A shift in front of a convolution that pads
    with zeros stays: the zeros are not shifted.
    """
    graph = _Graph(network)
    while sum(graph.rewrite(index) for index in range(1, len(graph.nodes))):
        continue
    return graph.result(network)


class _Graph:
    """Nodes under rewriting: a node that is gone is `None`, indices stay as they were."""

    def __init__(self, network: Network) -> None:
        self.nodes: list[Node | None] = list(network.nodes)
        self.readers: list[set[int]] = [set(readers) for readers in network.consumers]
        self.output = network.output

    def rewrite(self, index: int) -> bool:
        """Apply the first rule that fits the node; True iff one did."""
        node = self.nodes[index]
        if node is None or len(node.inputs) != 1:
            return False
        if does_nothing(node, self._node(node.inputs[0])):
            return self._bypass(index, node)
        return (
            self._merge_into(index, node)
            or self._merge_over_reshape(index, node)
            or self._merge_signs(index, node)
            or self._push_scale_behind(index, node)
            or self._push_layout_behind(index, node)
        )

    def result(self, network: Network) -> Network:
        """The nodes that the output needs, renumbered in order."""
        needed = {0, self.output}
        for index in range(self.output, 0, -1):
            node = self.nodes[index]
            if index in needed and node is not None:
                needed.update(node.inputs)
        order = {old: new for new, old in enumerate(sorted(needed))}
        kept = (self._node(old) for old in order)
        nodes = tuple(replace(n, inputs=tuple(order[i] for i in n.inputs)) for n in kept)
        return replace(network, nodes=nodes)

    def _node(self, index: int) -> Node:
        node = self.nodes[index]
        if node is None:
            raise AssertionError(f"node {index} was removed and is still read")
        return node

    def _only_reader(self, parent: int, reader: int) -> bool:
        return self.readers[parent] == {reader} and parent not in (0, self.output)

    def _set(self, index: int, node: Node) -> None:
        """Replace a node, keeping `readers` true; parents that nobody reads vanish."""
        old = self.nodes[index]
        for parent in () if old is None else old.inputs:
            self.readers[parent].discard(index)
        self.nodes[index] = node
        for parent in node.inputs:
            self.readers[parent].add(index)
        for parent in () if old is None else old.inputs:
            self._sweep(parent)

    def _sweep(self, index: int) -> None:
        node = self.nodes[index]
        if node is None or self.readers[index] or index in (0, self.output):
            return
        self.nodes[index] = None
        for parent in node.inputs:
            self.readers[parent].discard(index)
            self._sweep(parent)

    def _bypass(self, index: int, node: Node) -> bool:
        """Let the node's readers read its input instead."""
        parent = node.inputs[0]
        if index == self.output:
            if parent == 0:
                return False
            self.output = parent
        for reader in list(self.readers[index]):
            old = self._node(reader)
            inputs = tuple(parent if i == index else i for i in old.inputs)
            self._set(reader, replace(old, inputs=inputs))
        self._sweep(index)
        return True

    def _merge_into(self, index: int, node: Node) -> bool:
        parent = self._node(node.inputs[0])
        merge = _merge(parent, node)
        free = isinstance(node.op, ops.Take | ops.Reshape) or self._only_reader(
            node.inputs[0], index
        )
        op = merge(parent, node) if merge is not None and free else None
        if op is None:
            return False
        name = parent.name if isinstance(op, type(parent.op)) else node.name
        self._set(index, Node(op, parent.inputs, node.shape, name))
        return True

    def _merge_signs(self, index: int, node: Node) -> bool:
        """Sign after an increasing affine map of a Sign is one Sign."""
        if not isinstance(node.op, ops.Sign):
            return False
        values = np.array([-1.0, 0.0, 1.0])
        chain: list[Node] = []
        at, reader = node.inputs[0], index
        while self._only_reader(at, reader):
            inner = self._node(at)
            if isinstance(inner.op, ops.Sign):
                return self._replace_sign(index, inner, _through(chain, values))
            if not isinstance(inner.op, ops.Scale | ops.Shift):
                return False
            chain.append(inner)
            at, reader = inner.inputs[0], at
        return False

    def _replace_sign(self, index: int, inner: Node, images: tuple[Array, Array, Array]) -> bool:
        node = self._node(index)
        below, zero, above = images
        if not ((below < 0).all() and (above > 0).all() and isinstance(inner.op, ops.Sign)):
            return False
        outer = node.op.at_zero if isinstance(node.op, ops.Sign) else 0
        if inner.op.at_zero:
            at_zero = inner.op.at_zero
        elif (zero > 0).all():
            at_zero = 1
        elif (zero == 0).all():
            at_zero = outer
        else:
            return False
        self._set(index, replace(inner, op=ops.Sign(at_zero)))
        return True

    def _merge_over_reshape(self, index: int, node: Node) -> bool:
        """A scale or shift behind the reshape of a linear op goes into that op."""
        parent_index = node.inputs[0]
        reshape = self._node(parent_index)
        affine = isinstance(node.op, ops.Scale | ops.Shift)
        if not (affine and isinstance(reshape.op, ops.Reshape)):
            return False
        linear_index = reshape.inputs[0]
        linear = self._node(linear_index)
        alone = self._only_reader(parent_index, index)
        alone = alone and self._only_reader(linear_index, parent_index)
        if not (alone and isinstance(linear.op, ops.Linear)):
            return False
        flat = Node(rearranged(node, linear), (linear_index,), linear.shape, node.name)
        merge = _merge(linear, flat)
        op = None if merge is None else merge(linear, flat)
        if op is None:
            return False
        self._set(linear_index, replace(linear, op=op))
        return self._bypass(index, node)

    def _push_scale_behind(self, index: int, node: Node) -> bool:
        """Move a scale or shift behind the op that reads it, where something waits for it there."""
        parent_index = node.inputs[0]
        parent = self._node(parent_index)
        if not isinstance(parent.op, ops.Scale | ops.Shift):
            return False
        if not self._only_reader(parent_index, index):
            return False
        if isinstance(parent.op, ops.Shift) and isinstance(node.op, ops.Scale):
            if not isinstance(self._node(parent.inputs[0]).op, ops.Scale):
                return False
            if not products_are_normal(parent.op, node.op):
                return False
            moved: ops.Op = ops.Shift(parent.op.offset * node.op.factor)
        elif isinstance(node.op, ops.Reshape | ops.Transpose) and self._leads_to_weights(index):
            moved = rearranged(parent, node)
        else:
            return False
        self._swap(index, node, moved)
        return True

    def _push_layout_behind(self, index: int, node: Node) -> bool:
        """Move a reshape or transpose behind an activation, where it meets its like."""
        parent = self._node(node.inputs[0])
        if not (isinstance(node.op, Elementwise) and self._only_reader(node.inputs[0], index)):
            return False
        if not isinstance(parent.op, ops.Reshape | ops.Transpose):
            return False
        reader = index
        while isinstance(self._node(reader).op, Elementwise):
            if len(self.readers[reader]) != 1:
                return False
            reader = next(iter(self.readers[reader]))
        if type(self._node(reader).op) is not type(parent.op):
            return False
        shape = self._node(parent.inputs[0]).shape
        self._swap(index, replace(node, shape=shape), parent.op)
        return True

    def _swap(self, index: int, first: Node, second: ops.Op) -> None:
        """Let the parent's place hold `first` (its shape given) and this one hold `second`."""
        parent_index = self._node(index).inputs[0]
        parent, shape = self._node(parent_index), self._node(index).shape
        self._set(parent_index, replace(first, inputs=parent.inputs))
        self._set(index, Node(second, (parent_index,), shape, parent.name))

    def _leads_to_weights(self, index: int) -> bool:
        """True iff only shape changes and scales lie between the node and a linear op."""
        while len(self.readers[index]) == 1:
            index = next(iter(self.readers[index]))
            op = self._node(index).op
            if isinstance(op, ops.Linear | ops.Conv):
                return True
            if not isinstance(op, ops.Reshape | ops.Transpose | ops.Scale | ops.Shift):
                return False
        return False


def _merge(parent: Node, node: Node) -> Merge | None:
    """How to merge two nodes; `None` where there is no way, or products could underflow."""
    merge = MERGES.get((type(parent.op), type(node.op)))
    return merge if merge is not None and products_are_normal(parent.op, node.op) else None


def products_are_normal(first: ops.Op, second: ops.Op) -> bool:
    """Whether products of the ops' numbers are zero or far from float64's least."""
    return least_size(first) * least_size(second) > _LEAST_PRODUCT


def least_size(op: ops.Op) -> float:
    """The least of 1 and the sizes of an op's numbers that are not zero."""
    values = map(np.asarray, vars(op).values())
    numbers = [a for a in values if a.dtype == np.float64]
    sizes = (np.abs(a).min(where=a != 0, initial=1.0) for a in numbers)
    return float(min(sizes, default=1.0))


def _through(chain: list[Node], values: Array) -> tuple[Array, Array, Array]:
    """What the scales and shifts (last first) make of the three values, entry by entry."""
    images: list[Array] = [np.asarray(v) for v in values]
    for node in reversed(chain):
        if isinstance(node.op, ops.Scale):
            images = [image * node.op.factor for image in images]
        elif isinstance(node.op, ops.Shift):
            images = [image + node.op.offset for image in images]
    return images[0], images[1], images[2]
