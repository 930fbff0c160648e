"""One clause's program in a solver: points are streamed out, bounds are only claims."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray

from closegap.attacks.projection import to_float32_inside
from closegap.core.numerics import MIP_BOUND_MARGIN
from closegap.encode import EncodedNetwork
from closegap.mip.model import Claim, MipBackend, SolveOptions, Status
from closegap.mip.registry import backend, choose
from closegap.runtime.cache import compiled
from closegap.verify.resolution import unseen_change

__all__ = [
    "OnCandidate",
    "PointStream",
    "bound_allowance",
    "mixed_integer_solvers",
    "solve_in_turn",
    "solve_with",
]

#: Used when the preferred solver fails: ends in time too, because it can be killed.
_FALLBACK = "highs-process"

#: Told of every point a solver finds, float64 in the network's input shape; True means "enough".
OnCandidate: TypeAlias = Callable[[NDArray[np.float64]], bool]


class PointStream:
    """Turns a solver's incumbents into candidates, and a candidate's success into a stop.

    A solver's objective is not believed: every point is moved into the region, rounded to float32
    and pushed through the float64 network.

    Args:
        encoded: the program whose incumbents arrive.
        on_candidate: told of every new point; may replay it, and says whether to stop.
        interrupted: polled by the solver; True stops it.

    Attributes:
        points: float32, members of the region, in the order they came.
        margins: of the clause, at `points`.
        satisfied: `on_candidate` said stop.
    """

    def __init__(
        self,
        encoded: EncodedNetwork,
        on_candidate: OnCandidate | None = None,
        interrupted: Callable[[], bool] | None = None,
    ) -> None:
        self._encoded = encoded
        self._network = compiled(encoded.query.network, torch.float64)
        self._on_candidate = on_candidate
        self._interrupted = interrupted
        self.points: list[NDArray[np.float32]] = []
        self.margins: list[float] = []
        self.satisfied = False

    @property
    def least(self) -> float:
        """The least margin attained so far; infinity before the first point."""
        return min(self.margins, default=math.inf)

    def incumbent(self, values: Float[np.ndarray, "V"], objective: float) -> None:
        """Take a feasible point of the program."""
        self.add(self._encoded.point_of(values))

    def add(self, point: NDArray[np.floating]) -> None:
        """Take an input: evaluate it, keep it, pass it on."""
        if self._seen(point):
            self.satisfied = self.satisfied or self._tell(point)

    def _seen(self, point: NDArray[np.floating]) -> bool:
        query = self._encoded.query
        inside = to_float32_inside(query.region, point)
        if inside is None:
            return False
        with torch.no_grad():
            outputs = self._network(self._network.tensor(inside[None])).numpy()
        margins = query.prop.clause_values(query.prop.row_margins(outputs))
        self.points.append(inside)
        self.margins.append(float(margins[0, self._encoded.clause]))
        return True

    def _tell(self, point: NDArray[np.floating]) -> bool:
        return self._on_candidate is not None and self._on_candidate(
            np.asarray(point, dtype=np.float64)
        )

    def stopped(self) -> bool:
        """True once the solver has no reason to go on."""
        return self.satisfied or (self._interrupted is not None and self._interrupted())


def bound_allowance(encoded: EncodedNetwork) -> float:
    """What a claimed dual bound is lowered by before it counts.

    A solver works to tolerances: rows and integrality to `MIP_FEASIBILITY`, reduced costs
    likewise, sparse products to float64 rounding. A pass through the network that misses the rows
    by delta misses the margin by delta times the weights behind them; reduced costs that are off
    by delta move a bound by delta times the columns' ranges. Both scale with the largest term of
    the margin, max |coefficient| * |column|, and `MIP_BOUND_MARGIN` leaves four orders of
    magnitude between that and the tolerances asked for. What columns of tiny range can do to the
    margin is added, for a solver may not see them move at all.
    """
    margin = encoded.margin
    width = margin.matrix.shape[1]
    reach = np.maximum(np.abs(encoded.model.lower), np.abs(encoded.model.upper))[:width]
    terms = abs(margin.matrix).multiply(reach[None, :])
    largest = float(terms.max()) if terms.nnz else 0.0
    scale = max(1.0, largest, float(np.abs(margin.constant).max()))
    return MIP_BOUND_MARGIN * scale + unseen_change(encoded)


def mixed_integer_solvers(preference: str | None = None) -> tuple[tuple[MipBackend, ...], str]:
    """The solver to use and the one to fall back on, and a note when a wanted one is missing.

    Raises:
        MissingDependencyError: no mixed-integer solver is installed.
    """
    first, note = choose("mip", preference)
    second = backend(_FALLBACK)
    use_second = second.installed() and second.name != first.name
    return ((first, second) if use_second else (first,)), note


def solve_in_turn(
    solvers: tuple[MipBackend, ...], encoded: EncodedNetwork, options: SolveOptions
) -> tuple[Claim, str]:
    """Ask the solvers in turn until one does not fail.

    Returns:
        the last one's claim, and what to report: its name and words, and who failed before it.
    """
    deadline = time.monotonic() + options.time_limit
    words: list[str] = []
    claim = Claim(Status.FAILED)
    for solver in solvers:
        left = deadline - time.monotonic()
        claim = solver.solve(encoded.model, replace(options, time_limit=left))
        failed = claim.status is Status.FAILED
        words.append(f"{solver.name}{' failed' if failed else ''}: {claim.detail or claim.status}")
        if not failed:
            break
    return claim, "; ".join(words)


def solve_with(
    preference: str | None, encoded: EncodedNetwork, options: SolveOptions
) -> tuple[Claim, str]:
    """Ask the solver that is wanted, or who stands in for it.

    Returns:
        the claim, and who was missing or failed, if anybody.

    Raises:
        MissingDependencyError: no mixed-integer solver is installed.
    """
    solvers, missing = mixed_integer_solvers(preference)
    claim, words = solve_in_turn(solvers, encoded, options)
    return claim, words if " failed: " in words else missing
