"""Engines in order over one session, until it is decided or the budget ends."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from closegap.core.budget import Budget
from closegap.core.verdict import Reason
from closegap.strategy.failures import describe_failure
from closegap.strategy.session import Session
from closegap.strategy.settings import build_engine
from closegap.strategy.turns import turns

__all__ = ["run_engines"]


def run_engines(
    session: Session, names: Sequence[str], settings: Mapping[str, str], budget: Budget
) -> Reason:
    """Run engines on a session.

    A run that goes on where another was cut off takes the turn that the other was in, for the rest
    of its time, and those after it.

    Args:
        session: what they share.
        names: in the order to run them.
        settings: fields of their options by key.
        budget: for all of them together.

    Returns:
        why the session is open, should it be.
    """
    reason = Reason.INCOMPLETE
    resumed, began = session.turn if session.shelf.kept else (0, session.seconds)
    for number, (name, share) in enumerate(turns(names, session, budget)):
        if session.decided:
            break
        if budget.expired:
            reason = Reason.TIME
            break
        if number < resumed or not share:  # had before the run was cut off, or without any time
            continue
        past = session.seconds - began if number == resumed else 0.0
        turn = budget.within(share * (budget.remaining + past) - past)
        session.turn = number, session.seconds - past
        reason = _run(name, settings, session, turn) or reason
    if reason is Reason.INCOMPLETE:
        reason = Reason.TIME if budget.expired else session.limit or reason
    return reason


def _run(name: str, settings: Mapping[str, str], session: Session, budget: Budget) -> Reason | None:
    """Load and run one engine; a failure is a note and a reason, and the next engine goes on."""
    started = time.monotonic()
    try:
        build_engine(name, settings).run(session, budget)
    except Exception as error:  # whatever one engine does, the others' verdicts stand
        reason, note = describe_failure(name, error)
        session.note(note)
        return reason
    finally:
        session.spend(name, time.monotonic() - started)
    return None
