"""What attacks on one query of a binarized network share: the box, the sums, the margins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from closegap.attacks.activation.harvest import Harvest, harvested
from closegap.attacks.outcome import AttackOutcome
from closegap.core.budget import Budget
from closegap.core.errors import OptionError
from closegap.core.numerics import SIGN_GAP, float32_inward
from closegap.graph.binarized.first_layer import fixed_signs, sum_bounds
from closegap.graph.binarized.forward import BinarizedForward
from closegap.graph.binarized.linear_form import LinearSums, linear_sums
from closegap.graph.binarized.products import ProductLayer
from closegap.runtime.cache import binarized
from closegap.specs.query import Query
from closegap.specs.region import Ball, bounding_box

__all__ = ["BinarizedProblem", "Search", "binarized_problem", "require_single_sums", "searched"]

#: See `searched`.
Search: TypeAlias = Callable[["BinarizedProblem | None", Harvest, Budget], AttackOutcome | None]

#: How much of a clause's score is the margin of softened signs.
_SOFT_SHARE = 0.5


@dataclass(frozen=True, eq=False)
class BinarizedProblem:
    """A query about a binarized network on a box.

    Attributes:
        query: what to break.
        forward: the network in exact form.
        sums: of the first layer, as a matrix.
        lower, upper: the float32 box, flat; for proofs that of the region.
        known: signs of the first layer on the whole box, 0 where either may be.
        free: units of the first layer that may have either sign.
        gap: how far searches keep each first sum from its threshold, so that rounding to float32
            seldom takes a sign back; more than what float64 loses of the sum.
    """

    query: Query
    forward: BinarizedForward
    sums: LinearSums
    lower: Float[np.ndarray, "D"]
    upper: Float[np.ndarray, "D"]
    known: Int[np.ndarray, "U"]
    free: Int[np.ndarray, "free"]
    gap: Float[np.ndarray, "S"]

    def bits(self, sums: Float[np.ndarray, "B S"]) -> NDArray[np.bool_]:
        """Signs of the first layer `[B, U]`, as float64 sees them."""
        return self.forward.network.first.thresholds.slack(sums) >= 0

    def scores(
        self, bits: Bool[np.ndarray, "B U"]
    ) -> tuple[Float[np.ndarray, "B K"], Float[np.ndarray, "B K"]]:
        """The clauses' margins, and their scores: margins mixed with those of softened signs.

        A margin of signs changes in steps and mostly not at all; softened signs of the last layer
        tell which of two equal patterns is nearer to the next step.
        """
        layers, prop = self.forward.layers, self.query.prop
        for layer in layers[:-1]:
            bits = layer.signs(bits)
        last = self.forward.network.last
        soft = np.where(bits, 1.0, -1.0)
        if layers:
            bits, soft = _last_signs(layers[-1], bits)
        margins = prop.clause_values(prop.row_margins(self.forward.from_last(bits)))
        outputs = last.factor * (soft @ last.weight.T + last.bias) + last.offset
        softened = prop.clause_values(prop.row_margins(outputs))
        return margins, (1 - _SOFT_SHARE) * margins + _SOFT_SHARE * softened


def _last_signs(
    layer: ProductLayer, bits: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    slack = layer.slack(bits)
    # Sums are two apart: +1 puts the threshold halfway between on and off.
    width = np.sqrt(max(1.0, float(layer.layer.fan_in.mean())))
    return slack >= 0, np.tanh((slack + 1) / width)


def binarized_problem(query: Query, method: str, *, whole: bool = False) -> BinarizedProblem | None:
    """The query as such a problem; `None` where its region is no box.

    Args:
        query: about a binarized network.
        method: for messages.
        whole: with every real input of the box rather than float32 ones.

    Raises:
        OptionError: the network is not binarized; says why.
    """
    forward = binarized(query.network)
    if isinstance(forward, str):
        raise OptionError(f"{method} attacks binarized networks only: {forward}")
    if isinstance(query.region, Ball):
        return None
    box = bounding_box(query.region)
    ends = (box.lower, box.upper) if whole else float32_inward(box.lower, box.upper)
    low, high = (end.reshape(-1).astype(np.float64) for end in ends)
    first = forward.network.first
    bounds = sum_bounds(first, low, high)
    reach = np.maximum(np.abs(bounds.lower), np.abs(bounds.upper))
    known = fixed_signs(first, bounds).astype(np.int64)
    return BinarizedProblem(
        query=query,
        forward=forward,
        sums=linear_sums(first, len(low)),
        lower=low,
        upper=high,
        known=known,
        free=np.flatnonzero(known == 0),
        gap=np.maximum(SIGN_GAP * np.maximum(1.0, reach), 4 * bounds.rounding),
    )


def require_single_sums(problem: BinarizedProblem, method: str) -> None:
    """Refuse networks whose signs pool several sums.

    Raises:
        OptionError: some layer pools.
    """
    first = problem.forward.network.first.thresholds
    layers = [first, *(layer.thresholds for layer in problem.forward.network.hidden)]
    if any(layer.taken.shape[1] > 1 for layer in layers):
        raise OptionError(f"{method} wants networks without pooling; use bit-search or ste-pgd")


def searched(
    query: Query, method: str, budget: Budget, search: Search, *, single: bool = False
) -> AttackOutcome:
    """What a search finds on a query about a binarized network.

    Args:
        query: what to break.
        method: for messages and for the outcome.
        budget: of the search; it is not begun where there is no time or no clause.
        search: adds to the harvest, and returns `None`; or leaves all to another attack, and
            returns what that found. It gets no problem where the region is no box.
        single: refuse networks whose signs pool several sums.

    Raises:
        OptionError: the network is not binarized, or pools; says why.
        AttackInterrupted: Ctrl-C, with what was found until then.
    """
    problem = binarized_problem(query, method)
    if single and problem is not None:
        require_single_sums(problem, method)
    other: AttackOutcome | None = None

    def begin(harvest: Harvest) -> None:
        nonlocal other
        other = search(problem, harvest, budget)

    outcome = harvested(query, method, budget, begin)
    return outcome if other is None else replace(other, method=method)
