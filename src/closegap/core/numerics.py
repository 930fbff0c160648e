"""Every tolerance and rounding rule of the project. A bare small number elsewhere is a defect.

Source: the standard model of floating-point arithmetic (Higham, Accuracy and Stability of
Numerical Algorithms, ch. 3): a sum or dot product of n terms in any order differs from the exact
one by at most `gamma(n) * sum |terms|`, `gamma(n) = n u / (1 - n u)`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "BISECTION_SPAN",
    "CELL_TOLERANCE",
    "CUT_VIOLATION",
    "DISTANCE_SHARE",
    "DISTANCE_STEP",
    "DISTANCE_TOLERANCE",
    "FINEST_CUT",
    "FLOAT32_UNIT",
    "FLOAT64_UNDERFLOW",
    "FLOAT64_UNIT",
    "IDLE_WALL",
    "IR_ABSOLUTE_TOLERANCE",
    "IR_RELATIVE_TOLERANCE",
    "MIP_BOUND_MARGIN",
    "MIP_FEASIBILITY",
    "MIP_INTEGRALITY",
    "MIP_RESOLUTION",
    "MIP_ROW_SLACK",
    "MIP_SEARCH_FEASIBILITY",
    "NEARER_SHARE",
    "NEGLIGIBLE_SHARE",
    "OPTIMUM_TOLERANCE",
    "QP_ROW_SLACK",
    "QP_TOLERANCE",
    "REPLAY_SLACK",
    "RIM_SLACK",
    "SEARCH_EPSILON",
    "SIGN_GAP",
    "SMALL_COEFFICIENT",
    "TANH_RIM",
    "TINY",
    "VERTEX_CELL",
    "VIOLATION",
    "WALK_DECREASE",
    "float32_inward",
    "float32_outward",
    "gamma",
]

FLOAT32_UNIT = 2.0**-24
FLOAT64_UNIT = 2.0**-53
#: A float64 product that underflows is off by less than this, beside its relative rounding.
FLOAT64_UNDERFLOW = 2.0**-1074

#: Divisors are kept above this; far below any weight that matters, far above denormals.
TINY = 1e-30

#: A smooth activation whose input interval is narrower is not split again. Splitting is then given
#: up, never decided: what stays open is unknown.
FINEST_CUT = 1e-3

#: Keeps Adam's step finite where a gradient vanishes; a matter of speed, not of soundness.
SEARCH_EPSILON = 1e-8

#: How far inside the box, as a share, a pixel at its end begins where it is the tanh of a number.
TANH_RIM = 1e-6

#: The multiplier of an l2 ball is sought from this times its greatest value on.
BISECTION_SPAN = 1e-6

#: The IR must agree with onnxruntime to this, relative to the largest output, or it is refused.
IR_RELATIVE_TOLERANCE = 1e-4
IR_ABSOLUTE_TOLERANCE = 1e-5

#: Two float32 evaluations of one network (torch, onnxruntime) differ by less than this, relative
#: to 1 + the largest output. An attack goes on until the margin is broken by more.
REPLAY_SLACK = 1e-5

#: A point of an attack may be so far, relatively, beyond a ball's rim when it enters the attack's
#: record; it is moved inside, or left out, before it leaves the attack.
RIM_SLACK = 1e-5

#: Feasibility asked of LP and MIP solvers.
MIP_FEASIBILITY = 1e-9
#: The same where only points are wanted, and evaluated anew.
MIP_SEARCH_FEASIBILITY = 1e-6
#: Integrality asked of MIP solvers.
MIP_INTEGRALITY = 1e-9
#: A solver may take a column with a smaller range for a constant: a hundred times its tolerance.
MIP_RESOLUTION = 1e-7
#: Coefficients below this are what HiGHS may drop (its default is 1e-9, too coarse for us).
SMALL_COEFFICIENT = 1e-12
#: Entries that sway a row by less than this share of its range, together, become slack of the row.
NEGLIGIBLE_SHARE = 3e-5
#: A cut is added where a solution violates it by more than this.
CUT_VIOLATION = 1e-4
#: A row that a solver claims to satisfy may be violated by this times its scale.
MIP_ROW_SLACK = 1e-6
#: A dual bound claimed by a solver is lowered by this times the objective's scale before it counts.
MIP_BOUND_MARGIN = 1e-5

#: Residuals asked of solvers of quadratic programs, and how far rows of their points may be off.
QP_TOLERANCE = 1e-9
QP_ROW_SLACK = 1e-6

#: A wall of an activation cell may be violated by this times its scale before it becomes a row; a
#: unit this close to zero counts as on the wall. A matter of speed: candidates are evaluated anew.
CELL_TOLERANCE = 1e-8
#: A wall whose row is shorter than this share of the cell's longest row, or of its own constant, is
#: what rounding left of a unit that the input does not move there: no wall.
IDLE_WALL = 1e-14
#: A walk between cells goes on while the margin falls by more than this times its scale.
WALK_DECREASE = 1e-7
#: The next cell is to be nearer than the last by this share; a counterexample that is nearer than
#: what was proved by more contradicts it.
DISTANCE_STEP = 1e-6
#: An attack is asked again for a point nearer than a known one by at least this share.
NEARER_SHARE = 1e-4
#: A bracket of a least distance this narrow is closed, if it is no wider than this share of its
#: upper end.
DISTANCE_TOLERANCE = 1e-4
DISTANCE_SHARE = 1e-3

#: A least margin known to this is known, relative to 1 or to itself, whichever is larger. Points
#: are float32, so the attained end lies above the optimum by about as much.
OPTIMUM_TOLERANCE = 1e-6

#: A sign's threshold is moved by this times the scale of its input: outward (both signs allowed
#: near 0) where a proof is sought, inward where a point must survive rounding. A sign is
#: discontinuous, so it must dwarf `MIP_FEASIBILITY`.
SIGN_GAP = 1e-6


#: Vertices of a polytope closer than this times its reach stand for one another; what that loses
#: is taken off every bound.
VERTEX_CELL = 1e-9
#: A point is outside a hull when it is farther from it than this times the hull's reach; which
#: hulls are used is a matter of speed, not of soundness.
VIOLATION = 1e-4


def gamma(terms: int, unit: float = FLOAT64_UNIT) -> float:
    """`n u / (1 - n u)`: the relative rounding of a sum of `terms` products, in any order."""
    product = terms * unit
    if product >= 1.0:
        return float("inf")
    return product / (1.0 - product)


def float32_inward(
    lower: NDArray[np.float64], upper: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The least and the greatest float32 number inside each interval `[lower, upper]`.

    A network with float32 inputs sees float32 numbers only. Where an interval holds none (a fixed
    input such as 0.1), the nearest float32 number to its middle stands for it, both ends equal.

    Returns:
        float32 arrays of the same shape, `low <= high` everywhere.
    """
    with np.errstate(over="ignore"):  # beyond float32's range: infinity, then the next one inward
        low, high = lower.astype(np.float32), upper.astype(np.float32)
    low = np.where(low.astype(np.float64) < lower, np.nextafter(low, np.float32(np.inf)), low)
    high = np.where(high.astype(np.float64) > upper, np.nextafter(high, np.float32(-np.inf)), high)
    middle = ((lower + upper) / 2).astype(np.float32)
    empty = low > high
    return np.where(empty, middle, low), np.where(empty, middle, high)


def float32_outward(
    lower: NDArray[np.float64], upper: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The interval, widened just enough to hold every point `float32_inward` may choose."""
    low, high = float32_inward(lower, upper)
    return np.minimum(lower, low.astype(np.float64)), np.maximum(upper, high.astype(np.float64))
