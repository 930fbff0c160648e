"""What a binarized network is: sums over patches, thresholds, and a real last layer.

Letters beyond the legend: `E` entries a layer reads, `P` patches (positions of a kernel; 1 for a
dense layer), `F` entries of a patch, `C` kernels (output channels), `S = C P` sums, `U` units
(signs), `k` sums a unit pools.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from jaxtyping import Bool, Float, Int, Num

__all__ = ["BinarizedNetwork", "FirstLayer", "LastLayer", "Patches", "SignLayer", "Thresholds"]


@dataclass(frozen=True, eq=False)
class Patches:
    """Sums `s[c, p] = weight[c] . x[gather[p]]`, flattened with the channel first.

    Attributes:
        gather: indices of entries; -1 is padding, which contributes zero.
        weight: a row a channel.
        size: how many entries (E) there are.
    """

    gather: Int[np.ndarray, "P F"]
    weight: Float[np.ndarray, "C F"]
    size: int

    @property
    def sums(self) -> int:
        """Number of sums (S)."""
        return len(self.weight) * len(self.gather)


@dataclass(frozen=True, eq=False)
class Thresholds:
    """Unit `u` is +1 iff any (or all) of `sense[u] * s[taken[u]] >= t[u]` hold.

    Batch normalisation, scaling and pooling before a sign come down to this: the greatest of
    several sums reaches a threshold iff one of them does.

    Attributes:
        taken: which sums a unit reads.
        sense: +1 or -1.
        low, high: the float64 numbers around the exact `t`; equal where `t` is one of them, as
            every integer threshold is. Infinite where the condition never or always holds.
        exact: the distinct values of `t`; `None` stands for an infinite one.
        which: of `exact`.
        any_of: whether one condition suffices.
    """

    taken: Int[np.ndarray, "U k"]
    sense: Int[np.ndarray, "U k"]
    low: Float[np.ndarray, "U k"]
    high: Float[np.ndarray, "U k"]
    exact: tuple[Fraction | None, ...]
    which: Int[np.ndarray, "U k"]
    any_of: Bool[np.ndarray, "U"]

    @property
    def units(self) -> int:
        """Number of units (U)."""
        return len(self.any_of)

    def slack(self, sums: Num[np.ndarray, "B S"]) -> Float[np.ndarray, "B U"]:
        """How far each unit is from its threshold: +1 iff not negative, up to rounding."""
        each = self.sense * sums[:, self.taken] - self.high
        return np.asarray(np.where(self.any_of, each.max(axis=2), each.min(axis=2)))

    def pooled(self, met: Bool[np.ndarray, "B U k"]) -> Bool[np.ndarray, "B U"]:
        """The units' signs (True is +1), from which of their conditions are met."""
        return np.asarray(np.where(self.any_of, met.any(axis=2), met.all(axis=2)))


@dataclass(frozen=True, eq=False)
class FirstLayer:
    """Signs of real sums of shifted and scaled inputs.

    Attributes:
        source: which input an entry is; -1 for zero.
        steps: `(factor, offset)` pairs: each entry becomes `factor * entry + offset`, in order.
        patches: sums of the entries.
        thresholds: of the sums; what a layer adds is in them.
    """

    source: Int[np.ndarray, "E"]
    steps: tuple[tuple[Float[np.ndarray, "E"], Float[np.ndarray, "E"]], ...]
    patches: Patches
    thresholds: Thresholds


@dataclass(frozen=True, eq=False)
class SignLayer:
    """Signs of integer sums of signs: weights in {-1, 0, 1}, integer thresholds.

    A sum has the parity of its number of weights that are not zero. Every threshold has that
    parity too, so a unit whose condition fails misses it by at least 2.

    Attributes:
        fan_in: of every sum, weights of zero and padding left out.
    """

    patches: Patches
    thresholds: Thresholds
    fan_in: Int[np.ndarray, "S"]


@dataclass(frozen=True, eq=False)
class LastLayer:
    """Outputs `factor * (weight @ signs + bias) + offset`, evaluated in this order."""

    weight: Float[np.ndarray, "C U"]
    bias: Float[np.ndarray, "C"]
    factor: Float[np.ndarray, "C"]
    offset: Float[np.ndarray, "C"]


@dataclass(frozen=True, eq=False)
class BinarizedNetwork:
    """A real first layer, integer layers, a real last one."""

    first: FirstLayer
    hidden: tuple[SignLayer, ...]
    last: LastLayer
    input_shape: tuple[int, ...]

    @property
    def widths(self) -> tuple[int, ...]:
        """Units of every sign layer, in order."""
        layers: list[Thresholds] = [self.first.thresholds, *(h.thresholds for h in self.hidden)]
        return tuple(layer.units for layer in layers)
