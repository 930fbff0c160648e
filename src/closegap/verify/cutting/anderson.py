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
from jaxtyping import Float
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
        violation: `[M]`, at the point they were made for.
    """

    matrix: csr_array
    upper: Float[np.ndarray, "M"]
    violation: Float[np.ndarray, "M"]


class AndersonCuts:
    """Separates cuts for one program.

    Args:
        program: its columns' bounds are the boxes.
    """

    def __init__(self, program: CutProgram) -> None:
        self._layout = program.layout
        units = program.units
        width = program.layout.inputs + program.layout.units
        self._weight = units.weight.toarray()
        self._bias = units.bias
        lower, upper = program.model.lower[:width], program.model.upper[:width]
        rising = self._weight >= 0
        self._low = self._weight * np.where(rising, lower, upper)
        self._high = self._weight * np.where(rising, upper, lower)
        size = np.maximum(np.abs(self._low), np.abs(self._high)).sum(axis=1) + np.abs(self._bias)
        self._slack = units.slack + 4 * gamma(width + 8) * size

    def separate(self, point: Float[np.ndarray, "V"], least: float, most: int) -> Cuts:
        """The most violated cut of each ReLU, where it is violated at all.

        Args:
            point: a solution of the program.
            least: smaller violations are left.
            most: at most so many cuts, the most violated.
        """
        layout = self._layout
        width = self._weight.shape[1]
        phase = np.clip(point[layout.phase], 0.0, 1.0)[:, None]
        inside = self._weight * point[:width] - self._low * (1 - phase)
        outside = self._high * phase
        chosen = inside < outside
        side = np.where(chosen, inside, outside).sum(axis=1) + self._bias * phase[:, 0]
        violation = point[layout.positive] - side - self._slack
        ranked = np.argsort(-violation, kind="stable")[:most]
        which = ranked[violation[ranked] > least]
        subset = chosen[which]
        floor = np.where(subset, self._low[which], 0.0).sum(axis=1)
        tops = np.where(subset, 0.0, self._high[which]).sum(axis=1)
        matrix = np.zeros((len(which), layout.columns))
        matrix[:, :width] = -np.where(subset, self._weight[which], 0.0)
        places = np.arange(len(which))
        matrix[places, layout.positive.start + which] += 1.0
        matrix[places, layout.phase.start + which] = -(self._bias[which] + tops + floor)
        return Cuts(csr_array(matrix), self._slack[which] - floor, violation[which])
