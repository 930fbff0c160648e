"""The most violated cut of each ReLU's exact hull over a box of its inputs.

For `h = max(0, w.v + b)`, `v` in a box, and phase `s`, every subset `I` of the inputs gives

    h <= sum over I of w_i (v_i - low_i (1 - s)) + (b + sum outside I of w_i high_i) s

where `w_i low_i` and `w_i high_i` are the least and the greatest value of `w_i v_i`. The most
violated subset is found entry by entry, in linear time.

Source: Anderson, Huchette, Ma, Tjandraatmadja, Vielma, Strong mixed-integer programming
formulations for trained neural networks, Mathematical Programming 183 (2020).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy.sparse import csr_array

from closegap.core.numerics import gamma
from closegap.verify.cutting.program import CutProgram

__all__ = ["AndersonCuts", "Cuts"]


@dataclass(frozen=True, eq=False)
class Cuts:
    """`matrix @ columns <= upper`, true of every feasible point with phases of 0 and 1.

    Attributes:
        matrix: `[M, V]`.
        upper: `[M]`, raised by what rounding may have moved.
        owner: the ReLU of each, `[M]`.
        violation: `[M]`, at the point they were made for.
    """

    matrix: csr_array
    upper: Float[np.ndarray, "M"]
    owner: Int[np.ndarray, "M"]
    violation: Float[np.ndarray, "M"]


class AndersonCuts:
    """Separates cuts for one program.

    Args:
        program: its columns' bounds are the boxes.
    """

    def __init__(self, program: CutProgram) -> None:
        self._layout = program.layout
        units, width = program.units, program.layout.inputs + program.layout.units
        self._weight = units.weight
        self._row = np.repeat(np.arange(len(units.bias)), np.diff(units.weight.indptr))
        self._bias = units.bias
        entries, column = units.weight.data, units.weight.indices
        lower, upper = program.model.lower[column], program.model.upper[column]
        rising = entries >= 0
        self._low = entries * np.where(rising, lower, upper)
        self._high = entries * np.where(rising, upper, lower)
        size = self._sums(np.maximum(np.abs(self._low), np.abs(self._high))) + np.abs(self._bias)
        self._slack = units.slack + 4 * gamma(width + 8) * size

    def separate(self, point: Float[np.ndarray, "V"], least: float, most: int) -> Cuts:
        """The most violated cut of each ReLU, where it is violated at all.

        Args:
            point: a solution of the program.
            least: smaller violations are left.
            most: at most so many cuts, the most violated.
        """
        layout, weight = self._layout, self._weight
        phase = np.clip(point[layout.phase], 0.0, 1.0)
        share = phase[self._row]
        inside = weight.data * point[weight.indices] - self._low * (1 - share)
        outside = self._high * share
        chosen = inside < outside
        side = self._sums(np.where(chosen, inside, outside)) + self._bias * phase
        violation = point[layout.positive] - side - self._slack
        ranked = np.argsort(-violation, kind="stable")[:most]
        which = ranked[violation[ranked] > least]
        floor = self._sums(np.where(chosen, self._low, 0.0))[which]
        tops = self._sums(np.where(chosen, 0.0, self._high))[which]
        entries = np.where(chosen, -weight.data, 0.0)
        read = csr_array((entries, weight.indices, weight.indptr), (len(phase), layout.columns))
        places, ones = np.arange(len(which)), np.ones(len(which))
        own = csr_array(
            (
                np.concatenate([ones, -(self._bias[which] + tops + floor)]),
                (
                    np.concatenate([places, places]),
                    np.concatenate([layout.positive.start + which, layout.phase.start + which]),
                ),
            ),
            shape=(len(which), layout.columns),
        )
        matrix = csr_array(read[which] + own)
        matrix.eliminate_zeros()
        return Cuts(matrix, self._slack[which] - floor, which, violation[which])

    def _sums(self, entries: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of the entries of each ReLU."""
        return np.asarray(np.bincount(self._row, entries, len(self._bias)), dtype=np.float64)
