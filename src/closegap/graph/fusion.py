"""Merge affine ops where the result computes exactly the same and is not larger.

Exact means over the real numbers: every merged weight is rounded once, to float64. Weights that
are all whole numbers (binarized layers) are never scaled: float32 adds them exactly, so their
ties break as in the ONNX file, and solvers find the +-1 they look for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from closegap.graph import ops
from closegap.graph.network import Network, Node

__all__ = ["fuse_affine"]

Array: TypeAlias = NDArray[np.float64]
Merge: TypeAlias = Callable[[Node, Node], ops.Op | None]


def fuse_affine(network: Network) -> Network:
    """The same function with fewer nodes.

    Chains of scales and shifts (a batch normalisation, an input normalisation) go into the linear
    or convolutional op before or after them, consecutive linear ops become one where that holds no
    more weights, reshapes and transposes that do nothing vanish, and the pattern Sign, add a
    little, Sign becomes a sign with `sign(0) = +1`. A shift in front of a convolution that pads
    with zeros stays: the zeros are not shifted.
    """
    graph = _Graph(network)
    changed = True
    while changed:
        changed = any([graph.rewrite(index) for index in range(1, len(graph.nodes))])
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
        if _does_nothing(node, self._node(node.inputs[0])):
            return self._bypass(index, node)
        return (
            self._merge_into(index, node)
            or self._merge_signs(index, node)
            or self._push_through(index, node)
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
        merge = _MERGES.get((type(parent.op), type(node.op)))
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

    def _push_through(self, index: int, node: Node) -> bool:
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
            moved: ops.Op = ops.Shift(parent.op.offset * node.op.factor)
        elif isinstance(node.op, ops.Reshape | ops.Transpose) and self._leads_to_weights(index):
            moved = _rearranged(parent, node)
        else:
            return False
        self._set(parent_index, Node(node.op, parent.inputs, node.shape, node.name))
        self._set(index, Node(moved, (parent_index,), node.shape, parent.name))
        return True

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


def _through(chain: list[Node], values: Array) -> tuple[Array, Array, Array]:
    """What the scales and shifts (last first) make of the three values, entry by entry."""
    images: list[Array] = [np.asarray(v) for v in values]
    for node in reversed(chain):
        if isinstance(node.op, ops.Scale):
            images = [image * node.op.factor for image in images]
        elif isinstance(node.op, ops.Shift):
            images = [image + node.op.offset for image in images]
    return images[0], images[1], images[2]


def _does_nothing(node: Node, parent: Node) -> bool:
    if node.shape != parent.shape:
        return False
    op = node.op
    if isinstance(op, ops.Scale):
        return bool((op.factor == 1).all())
    if isinstance(op, ops.Shift):
        return bool((op.offset == 0).all())
    if isinstance(op, ops.Transpose):
        return op.perm == tuple(range(len(op.perm)))
    if isinstance(op, ops.Take):
        return bool((op.indices == np.arange(parent.size)).all())
    return isinstance(op, ops.Reshape | ops.Concat)


def _rearranged(parent: Node, node: Node) -> ops.Op:
    """The parent's scale or shift, for the entries as the node orders them."""
    values = parent.op.factor if isinstance(parent.op, ops.Scale) else _offset(parent.op)
    if isinstance(node.op, ops.Transpose):
        wide = values.reshape((1,) * (len(parent.shape) - values.ndim) + values.shape)
        moved: Array = np.transpose(wide, node.op.perm)
    else:
        moved = np.broadcast_to(values, parent.shape).reshape(node.shape)
    return ops.Scale(moved) if isinstance(parent.op, ops.Scale) else ops.Shift(moved)


def _offset(op: ops.Op) -> Array:
    if not isinstance(op, ops.Shift):
        raise AssertionError(f"{op} is not a shift")
    return op.offset


def _along(values: Array, node: Node, axis: int) -> Array | None:
    """The values as one number an entry of `axis`, or `None` where they vary along others."""
    wide = values.reshape((1,) * (len(node.shape) - values.ndim) + values.shape)
    if any(d != 1 and i != axis for i, d in enumerate(wide.shape)):
        full = np.broadcast_to(wide, node.shape)
        first = full[tuple(slice(None) if i == axis else slice(0, 1) for i in range(full.ndim))]
        if not (full == first).all():
            return None
        wide = first
    return np.broadcast_to(wide.reshape(-1), (node.shape[axis],))


def _is_integral(weight: Array) -> bool:
    return bool((weight == np.rint(weight)).all())


def _channel_axis(op: ops.Op, node: Node) -> int:
    return len(node.shape) - 1 if isinstance(op, ops.Linear) else 0


def _shift_after(parent: Node, node: Node) -> ops.Op | None:
    op: Any = parent.op
    values = _along(_offset(node.op), node, _channel_axis(op, node))
    return None if values is None else replace(op, bias=op.bias + values)


def _scale_after(parent: Node, node: Node) -> ops.Op | None:
    op: Any = parent.op
    assert isinstance(node.op, ops.Scale)
    values = _along(node.op.factor, node, _channel_axis(op, node))
    if values is None or _is_integral(op.weight):
        return None
    if isinstance(op, ops.ConvTranspose):
        rows = np.repeat(values.reshape(op.groups, -1), len(op.weight) // op.groups, axis=0)
        return replace(op, weight=op.weight * rows[:, :, None, None], bias=op.bias * values)
    rows = values.reshape(-1, *(1,) * (op.weight.ndim - 1))
    return replace(op, weight=op.weight * rows, bias=op.bias * values)


def _scale_before(parent: Node, node: Node) -> ops.Op | None:
    op: Any = node.op
    assert isinstance(parent.op, ops.Scale)
    values = _along(parent.op.factor, parent, _channel_axis(op, parent))
    if values is None or _is_integral(op.weight):
        return None
    if isinstance(op, ops.Linear):
        return replace(op, weight=op.weight * values)
    if isinstance(op, ops.ConvTranspose):
        return replace(op, weight=op.weight * values[:, None, None, None])
    columns = np.repeat(values.reshape(op.groups, -1), len(op.weight) // op.groups, axis=0)
    return replace(op, weight=op.weight * columns[:, :, None, None])


def _shift_before(parent: Node, node: Node) -> ops.Op | None:
    op: Any = node.op
    values = _along(_offset(parent.op), parent, _channel_axis(op, parent))
    if values is None:
        return None
    if isinstance(op, ops.Linear):
        return replace(op, bias=op.bias + op.weight @ values)
    if any(op.pads):
        return None
    columns = np.repeat(values.reshape(op.groups, -1), len(op.weight) // op.groups, axis=0)
    moved = (op.weight.sum(axis=(2, 3)) * columns).sum(axis=1)
    return replace(op, bias=op.bias + moved)


def _linear_linear(parent: Node, node: Node) -> ops.Op | None:
    first, second = parent.op, node.op
    assert isinstance(first, ops.Linear) and isinstance(second, ops.Linear)
    merged = len(second.weight) * first.weight.shape[1]
    if merged > first.weight.size + second.weight.size:
        return None
    return ops.Linear(second.weight @ first.weight, second.weight @ first.bias + second.bias)


def _scale_scale(parent: Node, node: Node) -> ops.Op | None:
    assert isinstance(parent.op, ops.Scale) and isinstance(node.op, ops.Scale)
    return ops.Scale(parent.op.factor * node.op.factor)


def _shift_shift(parent: Node, node: Node) -> ops.Op | None:
    return ops.Shift(_offset(parent.op) + _offset(node.op))


def _transpose_transpose(parent: Node, node: Node) -> ops.Op | None:
    assert isinstance(parent.op, ops.Transpose) and isinstance(node.op, ops.Transpose)
    first = parent.op.perm
    return ops.Transpose(tuple(first[axis] for axis in node.op.perm))


def _take_take(parent: Node, node: Node) -> ops.Op | None:
    assert isinstance(parent.op, ops.Take) and isinstance(node.op, ops.Take)
    return ops.Take(parent.op.indices[node.op.indices])


def _pad_conv(parent: Node, node: Node) -> ops.Op | None:
    assert isinstance(parent.op, ops.Pad) and isinstance(node.op, ops.Conv)
    channels, rows, columns = parent.op.pads
    if channels != (0, 0):
        return None
    top, left, bottom, right = node.op.pads
    pads = (top + rows[0], left + columns[0], bottom + rows[1], right + columns[1])
    return replace(node.op, pads=pads)


def _second(parent: Node, node: Node) -> ops.Op | None:
    return node.op


#: (op, op that reads it) -> one op that does both, or `None` where that would not be exact.
_MERGES: dict[tuple[type, type], Merge] = {
    (ops.Linear, ops.Shift): _shift_after,
    (ops.Conv, ops.Shift): _shift_after,
    (ops.ConvTranspose, ops.Shift): _shift_after,
    (ops.Linear, ops.Scale): _scale_after,
    (ops.Conv, ops.Scale): _scale_after,
    (ops.ConvTranspose, ops.Scale): _scale_after,
    (ops.Scale, ops.Linear): _scale_before,
    (ops.Scale, ops.Conv): _scale_before,
    (ops.Scale, ops.ConvTranspose): _scale_before,
    (ops.Shift, ops.Linear): _shift_before,
    (ops.Shift, ops.Conv): _shift_before,
    (ops.Linear, ops.Linear): _linear_linear,
    (ops.Scale, ops.Scale): _scale_scale,
    (ops.Shift, ops.Shift): _shift_shift,
    (ops.Transpose, ops.Transpose): _transpose_transpose,
    (ops.Take, ops.Take): _take_take,
    (ops.Reshape, ops.Take): _second,
    (ops.Reshape, ops.Reshape): _second,
    (ops.Relu, ops.Relu): _second,
    (ops.Pad, ops.Conv): _pad_conv,
}
