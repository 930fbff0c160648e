"""Activation cells: the pieces on which a network with ReLUs is affine.

Inside a region only the unstable neurons (units) decide the piece, so everything here works on the
reduced network: dense layers of units, each reading the input and the units before it. A cell is a
phase for every unit; on it every pre-activation and every output is an affine function of the
input. Source: Croce and Hein, A randomized gradient-free attack on ReLU networks (2018).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float, Int

from closegap.core.numerics import IDLE_WALL
from closegap.encode.reduced import ReducedNetwork
from closegap.graph import ops

__all__ = ["Cell", "UnitLayer", "UnitNetwork", "cell_key", "flipped", "unit_network"]


@dataclass(frozen=True, eq=False)
class Cell:
    """One piece of the region, and the network on it.

    The cell's closure is `sign * (rows @ x + constants) >= 0` within the region.

    Attributes:
        phase: True for an active unit.
        rows, constants: every unit's pre-activation.
        output_rows, output_constants: the outputs.
    """

    phase: Bool[np.ndarray, "U"]
    rows: Float[np.ndarray, "U D"]
    constants: Float[np.ndarray, "U"]
    output_rows: Float[np.ndarray, "C D"]
    output_constants: Float[np.ndarray, "C"]

    @cached_property
    def lengths(self) -> Float[np.ndarray, "U"]:
        """Of every unit's row: pre-activation per unit of Euclidean distance."""
        return np.asarray(np.linalg.norm(self.rows, axis=1))

    @cached_property
    def idle(self) -> Bool[np.ndarray, "U"]:
        """Units that no input moves in this cell, but for rounding: they are no walls."""
        return np.asarray(
            self.lengths <= np.maximum(self._noise, IDLE_WALL * np.abs(self.constants))
        )

    @property
    def is_empty(self) -> bool:
        """True where an idle unit has the other phase: no input lies in the cell."""
        return bool((self.idle & (self.sign * self.constants < -self._noise)).any())

    @property
    def _noise(self) -> float:
        return IDLE_WALL * float(self.lengths.max(initial=0.0))

    @property
    def scales(self) -> Float[np.ndarray, "U"]:
        """What is large of each pre-activation: its row's length and its constant together."""
        return np.asarray(self.lengths + np.abs(self.constants))

    @property
    def sign(self) -> Float[np.ndarray, "U"]:
        """+1 for an active unit, -1 for an inactive one."""
        return np.where(self.phase, 1.0, -1.0)

    def depths(self, point: Float[np.ndarray, "D"]) -> Float[np.ndarray, "U"]:
        """How far inside each wall the point is, in units of pre-activation; negative outside."""
        return np.asarray(self.sign * (self.rows @ point + self.constants))


@dataclass(frozen=True, eq=False)
class UnitLayer:
    """Units that read the input and all units of earlier layers.

    Attributes:
        weight: over the input and the earlier units.
        bias: of each unit.
        slope: of an inactive unit; 0 for ReLU.
        first: number of its first unit.
    """

    weight: Float[np.ndarray, "K S"]
    bias: Float[np.ndarray, "K"]
    slope: float
    first: int

    @property
    def units(self) -> slice:
        """The units' numbers."""
        return slice(self.first, self.first + len(self.bias))


@dataclass(frozen=True, eq=False)
class UnitNetwork:
    """The reduced network as layers of units and an affine output.

    Attributes:
        layers: in order.
        weight: of the outputs, over the input and all units.
        bias: of the outputs.
        inputs: how many inputs there are (D).
    """

    layers: tuple[UnitLayer, ...]
    weight: Float[np.ndarray, "C S"]
    bias: Float[np.ndarray, "C"]
    inputs: int

    @property
    def units(self) -> int:
        """How many units there are (U)."""
        return int(self.weight.shape[1]) - self.inputs

    def pre_activations(self, point: Float[np.ndarray, "D"]) -> Float[np.ndarray, "U"]:
        """Every unit's pre-activation at a flat input."""
        state, seen = point.astype(np.float64), [np.zeros(0)]
        for layer in self.layers:
            value = layer.weight @ state + layer.bias
            seen.append(value)
            state = np.concatenate([state, np.where(value >= 0, value, layer.slope * value)])
        return np.concatenate(seen)

    def outputs(self, point: Float[np.ndarray, "D"]) -> Float[np.ndarray, "C"]:
        """The outputs at a flat input."""
        return self.outputs_behind(point, self.pre_activations(point))

    def outputs_behind(
        self, point: Float[np.ndarray, "D"], values: Float[np.ndarray, "U"]
    ) -> Float[np.ndarray, "C"]:
        """The outputs at a flat input whose pre-activations are known."""
        state = np.concatenate([point, self.slopes(values >= 0) * values])
        return np.asarray(self.weight @ state + self.bias)

    def phase(self, point: Float[np.ndarray, "D"]) -> Bool[np.ndarray, "U"]:
        """The cell a point lies in; a unit at zero is active."""
        return np.asarray(self.pre_activations(point) >= 0)

    def phases(self, points: Float[np.ndarray, "M D"]) -> Bool[np.ndarray, "M U"]:
        """The cells of many flat inputs."""
        state = points.astype(np.float64)
        seen = [np.zeros((len(points), 0), dtype=np.bool_)]
        for layer in self.layers:
            value = state @ layer.weight.T + layer.bias
            seen.append(value >= 0)
            state = np.concatenate([state, np.where(value >= 0, value, layer.slope * value)], 1)
        return np.concatenate(seen, axis=1)

    def slopes(self, phase: Bool[np.ndarray, "U"]) -> Float[np.ndarray, "U"]:
        """Each unit's derivative in the cell."""
        slope = np.zeros(len(phase))
        for layer in self.layers:
            slope[layer.units] = layer.slope
        return np.where(phase, 1.0, slope)

    def cell(self, phase: Bool[np.ndarray, "U"], near: Cell | None = None) -> Cell:
        """The affine maps of a cell.

        Args:
            phase: of every unit.
            near: another cell; layers up to the first that a flipped unit feeds are taken from it.
        """
        slope = self.slopes(phase)
        kept = self._unchanged(phase, near)
        rows, constants = np.empty((self.units, self.inputs)), np.empty(self.units)
        for number, layer in enumerate(self.layers):
            if near is not None and number < kept:
                rows[layer.units] = near.rows[layer.units]
                constants[layer.units] = near.constants[layer.units]
            else:
                found = self._compose(layer.weight, layer.bias, slope, rows, constants)
                rows[layer.units], constants[layer.units] = found
        outputs = self._compose(self.weight, self.bias, slope, rows, constants)
        return Cell(phase, rows, constants, *outputs)

    def _unchanged(self, phase: Bool[np.ndarray, "U"], near: Cell | None) -> int:
        """How many layers read no flipped unit."""
        if near is None:
            return 0
        if np.array_equal(phase, near.phase):
            return len(self.layers)
        first = int(np.argmax(phase != near.phase))
        return sum(layer.first <= first for layer in self.layers)

    def _compose(
        self,
        weight: Float[np.ndarray, "K S"],
        bias: Float[np.ndarray, "K"],
        slope: Float[np.ndarray, "U"],
        rows: Float[np.ndarray, "U D"],
        constants: Float[np.ndarray, "U"],
    ) -> tuple[Float[np.ndarray, "K D"], Float[np.ndarray, "K"]]:
        """An affine function of input and units, as one of the input."""
        before = weight.shape[1] - self.inputs
        live = np.flatnonzero(slope[:before])
        through = weight[:, self.inputs + live] * slope[live]
        matrix = weight[:, : self.inputs] + through @ rows[live]
        return matrix, bias + through @ constants[live]

    def sensitivity(
        self,
        cell: Cell,
        output_weights: Float[np.ndarray, "C"],
        unit_weights: Float[np.ndarray, "U"],
    ) -> Float[np.ndarray, "U"]:
        """How `output_weights . outputs + unit_weights . pre_activations` grows with each unit.

        The derivative by a unit's value after its activation, along all paths of the cell.
        """
        slope = self.slopes(cell.phase)
        gain = self.weight[:, self.inputs :].T @ output_weights
        for layer in reversed(self.layers):
            inner = slope[layer.units] * gain[layer.units] + unit_weights[layer.units]
            gain[: layer.first] += layer.weight[:, self.inputs :].T @ inner
        return np.asarray(gain)

    def gradient(
        self, phase: Bool[np.ndarray, "U"], output_weights: Float[np.ndarray, "C"]
    ) -> Float[np.ndarray, "D"]:
        """The derivative of `output_weights . outputs` by a flat input, in a cell."""
        slope = self.slopes(phase)
        gain = self.weight.T @ output_weights
        for layer in reversed(self.layers):
            inner = slope[layer.units] * gain[self.inputs :][layer.units]
            gain[: self.inputs + layer.first] += layer.weight.T @ inner
        return np.asarray(gain[: self.inputs])


def unit_network(reduced: ReducedNetwork) -> UnitNetwork:
    """Read the layers off a reduced network."""
    nodes = reduced.network.nodes
    layers: list[UnitLayer] = []
    first = 0
    for node, unit in pairwise(nodes):
        if isinstance(node.op, ops.Linear) and isinstance(unit.op, ops.Relu | ops.LeakyRelu):
            slope = unit.op.slope if isinstance(unit.op, ops.LeakyRelu) else 0.0
            layers.append(UnitLayer(node.op.weight, node.op.bias, slope, first))
            first += len(node.op.bias)
    last = nodes[-1].op
    assert isinstance(last, ops.Linear)
    return UnitNetwork(tuple(layers), last.weight, last.bias, nodes[0].size)


def flipped(phase: Bool[np.ndarray, "U"], units: Int[np.ndarray, "F"]) -> Bool[np.ndarray, "U"]:
    """The phase with these units on their other side."""
    other = phase.copy()
    other[units] = ~other[units]
    return other


def cell_key(phase: Bool[np.ndarray, "U"]) -> bytes:
    """A key for sets of cells."""
    return np.packbits(phase).tobytes()
