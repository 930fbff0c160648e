"""Half-spaces of first-layer signs over a box, and whether signs occur together: certified LPs.

A sign's half-space is widened by what rounding did to the coefficients and thresholds, so it holds
every input that has the sign in exact arithmetic. That a cell is empty counts when a Farkas ray
proves it (`mip.certify`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy.sparse import csr_array

from closegap.core.numerics import FLOAT64_UNIT, SIGN_GAP, gamma
from closegap.graph.binarized.first_layer import SumBounds
from closegap.graph.binarized.linear_form import linear_sums
from closegap.graph.binarized.records import FirstLayer
from closegap.mip.certify import certifies_infeasibility
from closegap.mip.model import Model, SolveOptions, Status
from closegap.mip.registry import choose

__all__ = ["CellPrograms", "HalfSpaces", "half_spaces"]

#: How far from all thresholds an input is sought, in gaps that searches keep.
_CLEAR = (1e4, 1e3, 1e2, 1e1, 1.0)


@dataclass(frozen=True, eq=False)
class HalfSpaces:
    """Units that may have either sign; each reads one sum.

    Where unit `i` is +1, `matrix[i] . x >= on[i]`; where it is -1, `matrix[i] . x <= off[i]`. Both
    hold with the matrix as it stands here, and the box.

    Attributes:
        free: which units of the layer.
        matrix: `[free, D]`.
        lower, upper: the box, flat.
        least, most: of `matrix[i] . x` on the box, or beyond.
    """

    free: Int[np.ndarray, "free"]
    matrix: csr_array
    on: Float[np.ndarray, "free"]
    off: Float[np.ndarray, "free"]
    lower: Float[np.ndarray, "D"]
    upper: Float[np.ndarray, "D"]
    least: Float[np.ndarray, "free"]
    most: Float[np.ndarray, "free"]


def half_spaces(
    layer: FirstLayer,
    bounds: SumBounds,
    box: tuple[Float[np.ndarray, "D"], Float[np.ndarray, "D"]],
    free: Int[np.ndarray, "free"],
) -> HalfSpaces:
    """The half-spaces of a layer's units.

    Args:
        layer: the first layer.
        bounds: of its sums on the box.
        box: its ends, flat.
        free: units that may have either sign.
    """
    lower, upper = box
    sums, thresholds = linear_sums(layer, len(lower)), layer.thresholds
    taken, sense = thresholds.taken[free, 0], thresholds.sense[free, 0].astype(np.float64)
    constant, rounding = sense * sums.constant[taken], bounds.rounding[taken]
    low, high = thresholds.low[free, 0], thresholds.high[free, 0]
    reach = np.abs(constant) + np.maximum(np.abs(low), np.abs(high)) + rounding
    slack = rounding + 8 * FLOAT64_UNIT * reach
    matrix = csr_array(csr_array(sums.matrix.T)[taken].multiply(sense[:, None]))
    positive, negative = matrix.maximum(0), matrix.minimum(0)
    size = np.asarray(abs(matrix) @ np.maximum(np.abs(lower), np.abs(upper)))
    error = gamma(2 * len(lower) + 8) * size
    return HalfSpaces(
        free=free,
        matrix=matrix,
        on=low - constant - slack,
        off=high - constant + slack,
        lower=lower,
        upper=upper,
        least=np.asarray(positive @ lower + negative @ upper) - error,
        most=np.asarray(positive @ upper + negative @ lower) + error,
    )


class CellPrograms:
    """Linear programs over the box, one row a half-space.

    Args:
        spaces: of the units that may have either sign.
    """

    def __init__(self, spaces: HalfSpaces) -> None:
        count = len(spaces.free)
        self._spaces = spaces
        self._model = Model(
            cost=np.zeros(len(spaces.lower)),
            matrix=spaces.matrix,
            row_lower=np.full(count, -np.inf),
            row_upper=np.full(count, np.inf),
            lower=spaces.lower,
            upper=spaces.upper,
            integer=np.zeros(len(spaces.lower), dtype=bool),
        )
        self._rows = np.arange(count)
        reach = np.maximum(np.abs(spaces.least), np.abs(spaces.most))
        self._scale = np.maximum(1.0, reach)
        self._session = choose("lp")[0].session(self._model)

    def ask(
        self, signs: Int[np.ndarray, "free"], seconds: float, *, clear: float = 0.0
    ) -> tuple[NDArray[np.int64] | None, NDArray[np.float64] | None]:
        """Units whose signs no input has together, proved; or an input that seems to have them.

        Args:
            signs: of the free units; 0 for either.
            seconds: for the program.
            clear: keep inputs so many gaps of searches (`SIGN_GAP`) from the thresholds, so that
                rounding to float32 does not take a sign back; with it nothing is proved.
        """
        gap = clear * SIGN_GAP * self._scale
        low = np.where(signs > 0, self._spaces.on + gap, -np.inf)
        high = np.where(signs < 0, self._spaces.off - gap, np.inf)
        self._session.set_row_bounds(self._rows, low, high)
        claim = self._session.solve(SolveOptions(time_limit=seconds))
        if not clear and claim.status is Status.INFEASIBLE and claim.row_duals is not None:
            model = replace(self._model, row_lower=low, row_upper=high)
            if certifies_infeasibility(model, claim.row_duals):
                return np.flatnonzero((claim.row_duals != 0) & (signs != 0)), None
            return None, None
        return None, claim.point

    def clear_points(
        self, signs: Int[np.ndarray, "free"], seconds: float
    ) -> Iterator[NDArray[np.float64]]:
        """Inputs with these signs, farthest from the thresholds first, so that rounding to float32
        takes no sign back."""
        for clear in _CLEAR:
            point = self.ask(signs, seconds, clear=clear)[1]
            if point is not None:
                yield point
