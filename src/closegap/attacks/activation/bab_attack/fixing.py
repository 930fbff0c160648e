"""Fixed phases, and what they imply for the units that are left free."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int8

from closegap.attacks.activation.cells import UnitLayer
from closegap.attacks.activation.region import RegionProblem

__all__ = ["Fixing", "UnitBounds", "implied", "unit_bounds"]


@dataclass(frozen=True, eq=False)
class Fixing:
    """A part of the region: the points with these phases.

    Attributes:
        clause: whose margin is lowered there.
        phase: +1 active, -1 inactive, 0 free.
        margin: of the clause, to get below.
        start: a flat point of the part, or `None` where none is known.
    """

    clause: int
    phase: Int8[np.ndarray, "U"]
    margin: float
    start: Float[np.ndarray, "D"] | None = None


@dataclass(frozen=True, eq=False)
class UnitBounds:
    """`lower <= pre-activation <= upper` of every unit, up to float rounding: for search only."""

    lower: Float[np.ndarray, "U"]
    upper: Float[np.ndarray, "U"]

    def exclude(self, phase: Int8[np.ndarray, "U"]) -> bool:
        """True iff no point has these bounds and these phases."""
        wrong = ((phase > 0) & (self.upper < 0)) | ((phase < 0) & (self.lower > 0))
        return bool((wrong | (self.lower > self.upper)).any())

    @property
    def undecided(self) -> Bool[np.ndarray, "U"]:
        """Units that may be on either side of zero."""
        return (self.lower < 0) & (self.upper > 0)


def unit_bounds(problem: RegionProblem) -> UnitBounds:
    """What holds on the whole region."""
    sides = list(problem.reduced.bounds.values())
    none = [np.zeros(0)]
    return UnitBounds(
        np.concatenate(none + [lower for lower, _ in sides]),
        np.concatenate(none + [upper for _, upper in sides]),
    )


def implied(problem: RegionProblem, known: UnitBounds, phase: Int8[np.ndarray, "U"]) -> UnitBounds:
    """Bounds of every unit where these phases are fixed, never looser than what is known.

    Layer by layer: a fixed unit is affine, a free one lies between two lines; the rows of a layer
    are written over the input and bounded on its box. Bounds are not cut at a fixed unit's zero.

    Args:
        problem: the region.
        known: bounds without the fixed phases.
        phase: +1 active, -1 inactive, 0 free.
    """
    lower, upper = known.lower.copy(), known.upper.copy()
    for number, layer in enumerate(problem.units.layers):
        if number == 0:
            continue  # it reads the input only
        at = layer.units
        rows = np.concatenate([layer.weight, -layer.weight])
        constants = np.concatenate([layer.bias, -layer.bias])
        found = _least(problem, UnitBounds(lower, upper), phase, number, rows, constants)
        count = len(layer.bias)
        lower[at] = np.maximum(lower[at], found[:count])
        upper[at] = np.minimum(upper[at], -found[count:])
    return UnitBounds(lower, upper)


def _least(
    problem: RegionProblem,
    bounds: UnitBounds,
    phase: Int8[np.ndarray, "U"],
    number: int,
    rows: Float[np.ndarray, "K S"],
    constants: Float[np.ndarray, "K"],
) -> Float[np.ndarray, "K"]:
    """Lower bounds on the box of rows over the input and the units before layer `number`."""
    inputs, value = problem.units.inputs, constants.copy()
    for layer in reversed(problem.units.layers[:number]):
        weights = rows[:, inputs + layer.first :]
        lines = _Lines.of(layer, bounds, phase)
        below, above = np.maximum(weights, 0.0), np.minimum(weights, 0.0)
        value += above @ lines.intercept
        through = below * lines.lower + above * lines.upper
        value += through @ layer.bias
        rows = rows[:, : inputs + layer.first] + through @ layer.weight
    ground = problem.ground
    least = np.maximum(rows, 0.0) @ ground.lower + np.minimum(rows, 0.0) @ ground.upper
    return np.asarray(value + least)


@dataclass(frozen=True, eq=False)
class _Lines:
    """`lower z <= act(z) <= upper z + intercept` for each unit of a layer."""

    lower: Float[np.ndarray, "K"]
    upper: Float[np.ndarray, "K"]
    intercept: Float[np.ndarray, "K"]

    @classmethod
    def of(cls, layer: UnitLayer, bounds: UnitBounds, phase: Int8[np.ndarray, "U"]) -> _Lines:
        low, high = bounds.lower[layer.units], bounds.upper[layer.units]
        fixed = phase[layer.units]
        on = (fixed > 0) | ((fixed == 0) & (low >= 0))
        off = ~on & ((fixed < 0) | (high <= 0))
        open_ = ~on & ~off
        width = np.where(open_, high - low, 1.0)
        chord = (high - layer.slope * low) / width
        steeper = np.where(high >= -low, 1.0, layer.slope)
        slope = np.where(on, 1.0, layer.slope)
        return cls(
            np.where(open_, steeper, slope),
            np.where(open_, chord, slope),
            np.where(open_, (1.0 - layer.slope) * -low * high / width, 0.0),
        )
