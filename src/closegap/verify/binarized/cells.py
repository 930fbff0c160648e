"""Can signs of the first layer occur together on a box? Certified linear programs.

A sign's half-space is widened by what rounding did to the coefficients and thresholds, so the
program holds every input that has these signs in exact arithmetic; that it is empty counts when a
Farkas ray proves it (`mip.certify`).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy.sparse import csr_array

from closegap.core.numerics import FLOAT64_UNIT
from closegap.graph.binarized.first_layer import SumBounds
from closegap.graph.binarized.linear_form import linear_sums
from closegap.graph.binarized.records import FirstLayer
from closegap.mip.certify import certifies_infeasibility
from closegap.mip.model import Model, SolveOptions, Status
from closegap.mip.registry import choose

__all__ = ["CellPrograms"]


class CellPrograms:
    """Half-spaces of the units that may have either sign; each of them reads one sum.

    Args:
        layer: the first layer.
        bounds: of its sums on the box.
        lower, upper: the box, flat.
        free: units that may have either sign.
    """

    def __init__(
        self,
        layer: FirstLayer,
        bounds: SumBounds,
        lower: Float[np.ndarray, "D"],
        upper: Float[np.ndarray, "D"],
        free: Int[np.ndarray, "free"],
    ) -> None:
        sums, thresholds = linear_sums(layer, len(lower)), layer.thresholds
        taken, sense = thresholds.taken[free, 0], thresholds.sense[free, 0].astype(np.float64)
        constant, rounding = sense * sums.constant[taken], bounds.rounding[taken]
        low, high = thresholds.low[free, 0], thresholds.high[free, 0]
        reach = np.abs(constant) + np.maximum(np.abs(low), np.abs(high)) + rounding
        slack = rounding + 8 * FLOAT64_UNIT * reach
        self._on, self._off = low - constant - slack, high - constant + slack
        count = len(free)
        self._model = Model(
            cost=np.zeros(len(lower)),
            matrix=csr_array(csr_array(sums.matrix.T)[taken].multiply(sense[:, None])),
            row_lower=np.full(count, -np.inf),
            row_upper=np.full(count, np.inf),
            lower=lower,
            upper=upper,
            integer=np.zeros(len(lower), dtype=bool),
        )
        self._rows = np.arange(count)
        self._session = choose("lp")[0].session(self._model)

    def ask(
        self, signs: Int[np.ndarray, "free"], seconds: float
    ) -> tuple[bool, NDArray[np.float64] | None]:
        """Whether no input has these signs (0: either), proved; and an input that seems to."""
        low = np.where(signs > 0, self._on, -np.inf)
        high = np.where(signs < 0, self._off, np.inf)
        self._session.set_row_bounds(self._rows, low, high)
        claim = self._session.solve(SolveOptions(time_limit=seconds))
        if claim.status is Status.INFEASIBLE and claim.row_duals is not None:
            model = replace(self._model, row_lower=low, row_upper=high)
            return certifies_infeasibility(model, claim.row_duals), None
        return False, claim.point
