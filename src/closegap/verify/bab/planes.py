"""Linear functions of the input below rows, with all rounding taken off their constants."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from closegap.bounds.records import LinearBound
from closegap.core.numerics import FLOAT64_UNIT, gamma

__all__ = ["planes_below"]


def planes_below(
    found: LinearBound, offsets: Tensor, reach: Float[Tensor, "D"], nodes: int
) -> tuple[Float[Tensor, "B R D"], Float[Tensor, "B R"]]:
    """Coefficients and constants of planes that hold in exact arithmetic.

    The input gathers coefficients from every layer; those additions are counted here.

    Args:
        found: of a float64 pass that knows its rounding.
        offsets: added to the constants, broadcastable.
        reach: the greatest absolute value of every input.
        nodes: of the network.
    """
    coefficients = found.coefficients.flatten(2).detach()
    gathered = gamma(nodes) * (coefficients.abs() @ reach)
    size = found.constant.abs() + offsets.abs() + found.rounding
    constant = found.constant + offsets - 2 * found.rounding - 8 * FLOAT64_UNIT * size
    return coefficients, constant.detach() - gathered
