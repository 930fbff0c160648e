"""The least margin itself: its bracket closed to a tolerance, not only its sign.

A query whose property is moved by a threshold asks whether every margin lies above it. First the
threshold is the proved end of the bracket: no attack can pass it, so each descends as far as it
can. Then it is the attained end less the tolerance: a proof closes the bracket, and a point that
passes it is a better end to go on from. All engines serve, and none needs to know.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from closegap.core.bracket import Bracket
from closegap.core.budget import Budget
from closegap.core.errors import OptionError, SoundnessError
from closegap.core.numerics import FLOAT64_UNIT, OPTIMUM_TOLERANCE
from closegap.core.verdict import Reason, Verdict
from closegap.specs.query import Query
from closegap.strategy.sequence import run_engines
from closegap.strategy.session import Session

__all__ = ["check_optimum", "close_bracket", "is_closed", "tolerance"]

_BEGINNING = ("clean", "crown")
_ATTACKS = ("pgd", "strong-pgd", "region-walk", "lippa")
#: After a better point, this one walks on from it.
_WALK = "region-walk"
#: Of the time, this share is for descending before anything is proved.
_DESCENT = 0.2
#: Points handed from one round to the next.
_CARRIED = 16
#: After so many better points in a row the threshold takes longer and longer steps down.
_PATIENCE, _STRIDE = 2, 8.0


def check_optimum(query: Query) -> None:
    """Refuse what has no least margin to speak of.

    Raises:
        OptionError: the network ends in a Softmax.
    """
    if query.network.softmax_dropped:
        raise OptionError("the least margin of a network that ends in a Softmax is not defined")


def tolerance(bracket: Bracket) -> float:
    """How narrow the bracket has to be."""
    return OPTIMUM_TOLERANCE * max(1.0, abs(bracket.upper))


def is_closed(bracket: Bracket) -> bool:
    """True iff the least margin is known to the tolerance."""
    if not math.isfinite(bracket.upper):
        return bracket.lower == math.inf  # no clause at all
    return bracket.upper - bracket.lower <= 2 * tolerance(bracket)


def close_bracket(
    session: Session, names: Sequence[str], settings: Mapping[str, str], budget: Budget
) -> Reason:
    """Narrow the session's bracket from both sides.

    Args:
        session: of the query as it was asked.
        names: engines, in the order to run them; the clean check and CROWN always begin.
        settings: fields of engines' options by key.
        budget: of everything; its node limit holds for each tree.

    Returns:
        why the bracket is open, should it be.

    Raises:
        SoundnessError: what was proved lies above what was attained.
    """
    reason = run_engines(session, _BEGINNING[:1], settings, budget)
    if is_closed(session.bracket):
        return reason
    _round(session, next(_thresholds(session))[0], _BEGINNING[1:], settings, budget)
    provers = [name for name in names if name not in (*_BEGINNING, *_ATTACKS)]
    attacks = [name for name in names if name in _ATTACKS]
    if math.isfinite(session.bracket.lower):
        descent = budget.within(_DESCENT * budget.remaining)
        _round(session, session.bracket.lower, attacks, settings, descent)
    for threshold, improved in _thresholds(session):
        if budget.expired:
            return Reason.TIME
        walk = [_WALK] if improved and _WALK in names else []
        before = session.bracket
        proved, reason = _round(session, threshold, [*walk, *provers], settings, budget)
        if not proved and not session.bracket.upper < before.upper:
            return reason
    return reason


def _thresholds(session: Session) -> Iterator[tuple[float, bool]]:
    """The next threshold, and whether a better point was just found, until the bracket is closed.

    Below an end that falls again and again the steps grow, to half of the bracket at most.
    """
    falls = 0
    if session.bracket.upper == math.inf:  # a region without a single float32 point
        yield 0.0, False
    while math.isfinite(session.bracket.upper) and not is_closed(session.bracket):
        bracket = session.bracket
        step = tolerance(bracket) * _STRIDE ** max(0, falls - _PATIENCE)
        step = min(step, max(tolerance(bracket), (bracket.upper - bracket.lower) / 2))
        yield bracket.upper - step, falls > 0
        falls = falls + 1 if session.bracket.upper < bracket.upper else 0


def _round(
    session: Session,
    threshold: float,
    names: Sequence[str],
    settings: Mapping[str, str],
    budget: Budget,
) -> tuple[bool, Reason]:
    """Ask whether every margin lies above a threshold, and keep all that was learnt."""
    prop = session.query.prop
    offsets = prop.offsets - threshold
    slack = 8 * FLOAT64_UNIT * (np.abs(prop.offsets).max(initial=0.0) + abs(threshold))
    moved = Session(replace(session.query, prop=replace(prop, offsets=offsets)))
    _carry(session, moved, -threshold, slack)
    reason = run_engines(moved, names, settings, budget)
    _carry(moved, session, threshold, slack)
    session.absorb(moved)
    bracket = session.bracket
    if bracket.lower > bracket.upper + tolerance(bracket):
        raise SoundnessError(
            f"{bracket.lower_engine} proved {bracket.lower:.9g} as the least margin and "
            f"{bracket.upper_engine} attained {bracket.upper:.9g}; no verdict is given: "
            "please report this network and query"
        )
    return moved.bracket.verdict is Verdict.VERIFIED, reason


def _carry(source: Session, target: Session, moved: float, slack: float) -> None:
    """Proofs, points and activation bounds of one session for another, its margins moved."""
    rows, clauses = (_sum_below(proved, moved, slack) for proved in source.proofs)
    engine = source.bracket.lower_engine
    target.prove_rows(np.arange(len(rows)), rows, engine)
    for clause, lower in enumerate(clauses):
        target.prove_clause(clause, float(lower), engine)
    if source.bounds is not None:
        target.learn_bounds(source.bounds)
    points = [candidate.point for candidate in source.pool.best(_CARRIED)]
    if source.bracket.witness is not None:
        target.replay(source.bracket.witness.input, source.bracket.upper_engine)
    if points:
        target.offer(np.stack(points), source.bracket.upper_engine)


def _sum_below(values: NDArray[np.float64], moved: float, slack: float) -> NDArray[np.float64]:
    """`values + moved`, less all rounding."""
    return values + moved - slack - 4 * FLOAT64_UNIT * np.abs(values)
