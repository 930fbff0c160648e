"""Is this network binarized? Its exact form if it is, and the reason if it is not."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from closegap.core.errors import EncodingError
from closegap.graph import ops
from closegap.graph.binarized.patches import fan_in, patches_of, signs_only
from closegap.graph.binarized.records import (
    BinarizedNetwork,
    FirstLayer,
    LastLayer,
    Patches,
    SignLayer,
)
from closegap.graph.binarized.thresholds import Sums, fold
from closegap.graph.binarized.trail import Trail, follow
from closegap.graph.network import Network, Node

__all__ = ["binarized_form", "recognise"]


def recognise(network: Network) -> BinarizedNetwork | str:
    """The exact form of a binarized network, or why the network has none.

    Accepted are chains of layers: signs with sign(0) = +1 of affine functions of the inputs; then
    signs of sums whose weights have one size a row (or are zero), dense or convolutional, with
    scales, shifts and maxima before them; then a dense layer with any weights.
    """
    try:
        return binarized_form(network)
    except EncodingError as error:
        return str(error)


def binarized_form(network: Network) -> BinarizedNetwork:
    """The exact form.

    Raises:
        EncodingError: names what the network has that a binarized one has not.
    """
    if not any(isinstance(node.op, ops.Sign) for node in network.nodes):
        raise EncodingError("the network has no signs")
    reader = _Reader(_untouched(network.input_shape))
    for index, node in enumerate(network.nodes[1:], start=1):
        if node.inputs != (index - 1,):
            raise EncodingError(f"node {index} ('{node.name}') is not in one chain with the others")
        reader.read(node)
    return reader.network(network.input_shape)


def _untouched(shape: tuple[int, ...]) -> Trail:
    size = int(np.prod(shape, dtype=np.int64))
    return Trail(np.arange(size).reshape(shape))


@dataclass(frozen=True, eq=False)
class _Layer:
    """A layer that no sign has followed yet.

    Attributes:
        source: the trail to its entries.
        patches: its sums.
        bias: what is added to each.
        name: for messages.
    """

    source: Trail
    patches: Patches
    bias: NDArray[np.float64]
    name: str


@dataclass(eq=False)
class _Reader:
    """Reads a chain node by node."""

    trail: Trail
    first: FirstLayer | None = None
    hidden: list[SignLayer] = field(default_factory=list)
    layer: _Layer | None = None

    def read(self, node: Node) -> None:
        """Take the next node."""
        if isinstance(node.op, ops.Linear | ops.Conv):
            self._start(node, node.op)
        elif isinstance(node.op, ops.Sign):
            self._sign(node, node.op)
        elif isinstance(node.op, ops.Max):
            if self.layer is None or self.trail.windows is not None:
                raise EncodingError(f"node '{node.name}' is a maximum of something but sums")
            self.trail = self.trail.pooled()
        else:
            self._follow(node)

    def _follow(self, node: Node) -> None:
        followed = follow(self.trail, node)
        if followed is None or (self.layer is not None and isinstance(node.op, ops.Pad)):
            raise EncodingError(f"node '{node.name}' is a {type(node.op).__name__}")
        self.trail = followed

    def _start(self, node: Node, op: ops.Linear | ops.Conv) -> None:
        if self.layer is not None:
            raise EncodingError(f"node '{node.name}': two layers without a sign between them")
        if self.first is not None and self.trail.steps:
            raise EncodingError(f"node '{node.name}': signs are scaled before the layer")
        where = self.trail.where
        size = where.size if not self.hidden else self.hidden[-1].thresholds.units
        if self.first is None:
            where = np.arange(where.size).reshape(where.shape)
        elif not self.hidden:
            size = self.first.thresholds.units
        patches, places = patches_of(op, where, size, node.shape)
        bias = np.repeat(op.bias, len(patches.gather))
        self.layer = _Layer(self.trail, patches, bias, node.name)
        self.trail = Trail(places)

    def _sign(self, node: Node, op: ops.Sign) -> None:
        if self.first is None:
            layer = self.layer or self._inputs_alone(node)
            sums = Sums(np.ones(layer.patches.sums), layer.bias, None, layer.name)
            thresholds = fold(sums, self.trail, op.at_zero)
            source = layer.source
            steps = tuple((s.factor.reshape(-1), s.offset.reshape(-1)) for s in source.steps)
            self.first = FirstLayer(source.where.reshape(-1), steps, layer.patches, thresholds)
        else:
            if self.layer is None:
                raise EncodingError(f"node '{node.name}': two signs without a layer between them")
            patches, scale = signs_only(self.layer.patches, self.layer.name)
            scales = np.repeat(scale, len(patches.gather))
            sums = Sums(scales, self.layer.bias, fan_in(patches), self.layer.name)
            thresholds = fold(sums, self.trail, op.at_zero)
            self.hidden.append(SignLayer(patches, thresholds, fan_in(patches)))
        self.layer = None
        self.trail = _untouched(node.shape)

    def _inputs_alone(self, node: Node) -> _Layer:
        """Every input by itself, as a layer of weights 1; what was done to it came after."""
        size = self.trail.where.size
        source = Trail(self.trail.where)
        self.trail = Trail(np.arange(size).reshape(source.where.shape), self.trail.steps)
        patches = Patches(np.arange(size)[:, None], np.ones((1, 1)), size)
        return _Layer(source, patches, np.zeros(size), node.name)

    def network(self, input_shape: tuple[int, ...]) -> BinarizedNetwork:
        """What was read, when the chain has ended.

        Raises:
            EncodingError: it does not end in a dense layer.
        """
        layer = self.layer
        if self.first is None or layer is None or len(layer.patches.gather) != 1:
            raise EncodingError("the network does not end in a dense layer after a sign")
        if self.trail.windows is not None or len(self.trail.steps) > 2:
            raise EncodingError("more than a scale and a shift follow the last layer")
        order = self.trail.where.reshape(-1)
        factor, offset = np.ones(len(order)), np.zeros(len(order))
        for step in self.trail.steps:
            factor = factor * step.factor.reshape(-1)
            offset = offset * step.factor.reshape(-1) + step.offset.reshape(-1)
        # Index -1, padding, adds to a column of its own.
        weight = np.zeros((layer.patches.size + 1, len(layer.patches.weight)))
        np.add.at(weight, layer.patches.gather[0], layer.patches.weight.T)
        last = LastLayer(weight[:-1, order].T, layer.bias[order], factor, offset)
        return BinarizedNetwork(self.first, tuple(self.hidden), last, input_shape)
