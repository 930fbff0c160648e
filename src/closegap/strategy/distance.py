"""Distance queries: a bracket of the distance to the nearest counterexample.

Walks push the upper end down to a replayed witness; decision queries at radii in between push the
lower end up. For a norm the radius tried first is just below the upper end: where the witness is
the nearest one, that proof closes the bracket at once. For other distances exact solvers, started
at the witness, push both ends; the starts are near in the l1 norm, or in pixels. Under norms the
tree and the proofs take turns, more to whose gap shrinks faster; the tree begins, for it is faster
where it closes at all. On small networks it begins before the attacks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from closegap.attacks.activation.nearest import NearestAttack
from closegap.core.budget import Budget
from closegap.core.errors import OptionError
from closegap.core.tolerance import Tolerance
from closegap.specs.distance import DistanceQuery
from closegap.strategy.bracketing import Bracketing
from closegap.strategy.distance_result import (
    DistanceInterrupted,
    DistanceResult,
    require_consistent,
)
from closegap.strategy.exact_solvers import EXACT, IN_TURN
from closegap.strategy.starts import required

__all__ = [
    "DistanceInterrupted",
    "DistanceResult",
    "Means",
    "minimise_distance",
    "require_consistent",
    "require_exact",
]


@dataclass(frozen=True)
class Means:
    """What pushes the ends of a bracket, besides exact solvers.

    Attributes:
        engines: for proofs at a radius.
        attack: walks, for witnesses.
    """

    engines: tuple[str, ...] = ("crown", "alpha-crown", "layered", "bab", "mip", "input-split")
    attack: NearestAttack = field(default_factory=NearestAttack)


def minimise_distance(
    query: DistanceQuery,
    *,
    timeout: float = 60.0,
    tolerance: Tolerance | float | None = None,
    starts: Sequence[NDArray[np.floating]] = (),
    means: Means | None = None,
    exact: str | None = None,
    seed: int = 0,
) -> DistanceResult:
    """Bracket the distance to the nearest counterexample.

    Args:
        query: network, image, label and distance.
        timeout: seconds.
        tolerance: stop once the bracket is this narrow; a number is a width in the distance's
            units, `None` is `Tolerance()`.
        starts: counterexamples that are known, such as `seen` of a result in another distance;
            `counterexamples` chooses those of any points. They are replayed before they count.
        means: engines and walks; `None` is `Means()`.
        exact: one of `EXACT`, instead of proofs at radii; `None` leaves norms to these,
            in turn with the tree, and takes those of `IN_TURN` for the other distances.
        seed: of every random choice.

    Raises:
        OptionError: timeout is negative, tolerance not positive and finite, one of them NaN, or
            the solver is unknown.
        SpecError: a start is no counterexample, or no input of the network in [0, 1].
        SoundnessError: a proof and a witness exclude each other.
        DistanceInterrupted: Ctrl-C, with the bracket as it stood.
    """
    if not timeout >= 0:
        raise OptionError(f"timeout {timeout} must not be negative")
    near = Tolerance() if tolerance is None else tolerance
    if not isinstance(near, Tolerance):
        near = Tolerance(near, math.inf)
    require_exact(exact)
    known, by, norm = required(query, starts), means or Means(), query.objective.norm
    solvers = [exact] if exact is not None else list(IN_TURN) if norm is None else []
    budget = Budget.of_seconds(timeout, seed=seed)
    search = Bracketing(query, near, by.attack, budget)
    try:
        if not search.clean():
            search.begin(known)
            _narrow(search, solvers, by.engines)
        search.settle()
    except KeyboardInterrupt as stop:
        raise DistanceInterrupted(search.result()) from stop
    return search.result()


def require_exact(name: str | None) -> None:
    """Nothing, unless a solver of least distances is asked for that there is not.

    Raises:
        OptionError: it is none of `EXACT`.
    """
    if name is not None and name not in EXACT:
        raise OptionError(f"no exact solver is called '{name}'; use one of {', '.join(EXACT)}")


def _narrow(search: Bracketing, solvers: Sequence[str], engines: Sequence[str]) -> None:
    """Push both ends: by exact solvers in turn, or by the tree and proofs at radii."""
    with search.part("secants"):
        search.first_floor()
    if not solvers or "tree" in solvers:
        search.early()
    with search.part("starts"):
        search.attacks()
    with search.part("linear bounds"):
        search.halve()
    for name in solvers:
        search.solve(name)
    if solvers:
        search.rest()
    else:
        search.race(engines)
