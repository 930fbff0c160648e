"""Exact searches have a short trial before long attacks, where few units are undecided."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence

import numpy as np

from closegap.core.budget import Budget
from closegap.graph import ops
from closegap.strategy.session import Session
from closegap.strategy.shared_tree import held_tree, uproot

__all__ = ["early_turns", "programs_take"]

_TREE, _PROGRAMS = "bab", "mip"
#: With more undecided units a trial closes too seldom.
_FEW = 150
#: The tree's trial: seconds, and share of the time that is left.
_TRIAL, _TRIAL_SHARE = 2.0, 0.02
#: Seconds of a mixed-integer program: to begin, and of a clause, twice as long for so many units
#: more. Measured within a factor of three on dense networks of 8 to 784 inputs and 9 to 60 units.
_BEGIN, _CLAUSE, _DOUBLING = 0.5, 0.05, 9.0
#: Programs get so many times what they are expected to take, and this share of the time at most.
_LEEWAY, _MOST_SHARE = 2.0, 0.1


def early_turns(
    names: Sequence[str], session: Session, budget: Budget
) -> Iterator[tuple[str, float]]:
    """A turn of the tree and two of mixed-integer programs; without time where they do not pay.

    The tree comes first: it closes most such queries in less time than a solver needs to begin.
    Where it does not, its growth says how long it would take; programs that are expected to take
    less have a turn, and another one where what the first proved says that they will close soon.
    The tree of the trial is given up, for bounds may be tighter when the next one begins. A tree
    that is there already stays, and nobody has a trial.

    There are always as many turns, so that a run that was cut off goes on in the right one.

    Args:
        names: of the engines that are asked for; there are no turns unless both are.
        session: bounded already.
        budget: of all turns together; under a node limit trees do not follow the clock, and nobody
            has a trial.
    """
    if not {_TREE, _PROGRAMS} <= set(names) or not _has_hinges_only(session):
        return
    new = budget.nodes is None and _TREE not in session.held and held_tree(session) is None
    few = new and _undecided(session) <= _FEW
    yield _TREE, _share(_TRIAL, _TRIAL_SHARE, budget) if few else 0.0
    tree = _given_up(session) if few else None
    wanted = programs_take(_undecided(session), len(session.open_clauses)) if few else math.inf
    before, began = _missing(session), time.monotonic()
    yield _PROGRAMS, _programs_share(wanted, tree, budget)
    wanted = _expected(before, _missing(session), time.monotonic() - began)
    yield _PROGRAMS, _programs_share(wanted, tree, budget)


def programs_take(units: float, clauses: int) -> float:
    """Seconds that programs of all clauses are expected to take; a guess for shares of time."""
    return _BEGIN + clauses * _CLAUSE * math.pow(2.0, min(units / _DOUBLING, 60.0))


def _programs_share(seconds: float, tree: float | None, budget: Budget) -> float:
    """Of the time that is left; nothing where the tree would close sooner, or it takes too long."""
    if seconds > min(math.inf if tree is None else tree, _MOST_SHARE * budget.remaining):
        return 0.0
    return _share(_LEEWAY * seconds, _MOST_SHARE, budget)


def _share(seconds: float, most: float, budget: Budget) -> float:
    left = budget.remaining
    return min(most, seconds / left) if 0 < left < math.inf else 0.0


def _missing(session: Session) -> float:
    """What the bounds of all open clauses are below zero, together."""
    return float(np.maximum(-session.clause_lower, 0.0).sum())


def _expected(before: float, after: float, seconds: float) -> float:
    """Seconds until nothing is missing, if it goes on as it went; infinity where it did not go."""
    gained = before - after
    return seconds * after / gained if 0 < gained < math.inf else math.inf


def _undecided(session: Session) -> float:
    return math.inf if session.bounds is None else session.bounds.undecided


def _has_hinges_only(session: Session) -> bool:
    network = session.query.network
    hinges = ops.Relu | ops.LeakyRelu | ops.Max
    return all(isinstance(network.nodes[i].op, hinges) for i in network.activations)


def _given_up(session: Session) -> float | None:
    """Forget the trial's tree; the seconds that it would have taken to close, if anyone can tell.

    A run that goes on in a later turn had its trial before: nothing is forgotten then.
    """
    if session.held.pop(_TREE, None) is None:
        return None
    uproot(session)
    session.shelf.clear()
    return session.outlook.pop(_TREE, None)
