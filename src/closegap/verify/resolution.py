"""What a solver with absolute tolerances cannot see: columns whose whole range is tiny.

A program of a network with tiny inputs or hidden values, and large weights behind them, is exact
and yet hopeless: solvers fix a column whose range is of the size of their tolerance, and the margin
moves by its range times the weights. Measured: with ranges of 1e-9 HiGHS, of 1e-13 SCIP claims
bounds that are wrong by the whole spread of the margin. Large values are no better: with weights of
1e18, undone by tiny ones behind, SCIP claimed least distances above attained ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from closegap.core.errors import EncodingError
from closegap.core.numerics import MIP_FEASIBILITY, MIP_RESOLUTION, MIP_ROW_SLACK, SIGN_GAP
from closegap.encode import EncodedNetwork
from closegap.encode.expression import Expression
from closegap.encode.units import (
    CopyUnits,
    MaxUnits,
    ObjectiveUnits,
    SignUnits,
    SmoothUnits,
    SplitUnits,
    ZeroSignUnits,
)

__all__ = ["require_visible", "unseen_change"]

#: One beside numbers from here on is what tolerances let go.
_LARGE = 1 / MIP_FEASIBILITY

Array: TypeAlias = NDArray[np.float64]
#: Adds to `lost [V]` what a block's own columns lose when its expression is off by so much.
Rule: TypeAlias = Callable[[Any, Array, Array], None]


def require_visible(encoded: EncodedNetwork) -> None:
    """Nothing, unless a program's numbers are such that no claim of a solver means anything.

    Raises:
        EncodingError: a coefficient or a column is so large that tolerances let whole units go, or
            coefficients that solvers take for zero matter.
    """
    model = encoded.model
    reach = np.maximum(np.abs(model.lower), np.abs(model.upper))
    reach = np.where(np.isfinite(reach), reach, 1.0)
    sizes = np.abs(model.matrix.data)
    largest = max(float(part.max(initial=0.0)) for part in (sizes, np.abs(model.cost), reach))
    if largest >= _LARGE:
        raise EncodingError(f"numbers up to {largest:.0e} are beyond what solvers' tolerances bear")
    unseen = np.where(sizes < MIP_FEASIBILITY, sizes, 0.0) * reach[model.matrix.indices]
    if float(unseen.max(initial=0.0)) > MIP_ROW_SLACK:
        raise EncodingError(
            "coefficients that solvers take for zero meet values that are not small"
        )


def unseen_change(encoded: EncodedNetwork) -> float:
    """How far the margin may move while every column of tiny range is taken for a constant.

    The columns' ranges are carried forward through the blocks of units, each of which moves by no
    more than its expression does; signs jump where that is more than their gap.
    """
    model = encoded.model
    width = model.upper - model.lower
    lost = np.where(width < MIP_RESOLUTION, width, 0.0)
    if not lost.any():
        return 0.0
    for block in encoded.units:
        rule, expression = _RULES.get(type(block)), getattr(block, "expression", None)
        if rule is not None and isinstance(expression, Expression):
            matrix = expression.matrix
            rule(block, np.asarray(abs(matrix) @ lost[: matrix.shape[1]]), lost)
            lost = np.minimum(lost, width)
    margin = encoded.margin.matrix
    return float((abs(margin) @ lost[: margin.shape[1]]).max(initial=0.0))


def _split(block: SplitUnits, moved: Array, lost: Array) -> None:
    lost[block.positive] += moved
    lost[block.negative] += moved


def _copy(block: CopyUnits, moved: Array, lost: Array) -> None:
    lost[block.columns] += moved


def _smooth(block: SmoothUnits, moved: Array, lost: Array) -> None:
    lost[block.inputs] += moved
    lost[block.outputs] += moved


def _greatest(block: MaxUnits, moved: Array, lost: Array) -> None:
    most = np.zeros(len(block.greatest))
    np.maximum.at(most, block.window, moved)
    lost[block.greatest] += most


def _sign(block: SignUnits, moved: Array, lost: Array) -> None:
    lost[block.columns[moved > SIGN_GAP]] = 1.0


def _zero_sign(block: ZeroSignUnits, moved: Array, lost: Array) -> None:
    lost[block.on[moved > SIGN_GAP]] = 1.0
    lost[block.off[moved > SIGN_GAP]] = 1.0


def _objective(block: ObjectiveUnits, moved: Array, lost: Array) -> None:
    lost[block.column] += moved.max()


_RULES: dict[type, Rule] = {
    SplitUnits: _split,
    CopyUnits: _copy,
    SmoothUnits: _smooth,
    MaxUnits: _greatest,
    SignUnits: _sign,
    ZeroSignUnits: _zero_sign,
    ObjectiveUnits: _objective,
}
