"""Solve one query: run engines in order over one shared bracket until it closes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from closegap.core.bracket import Bracket
from closegap.core.budget import Budget
from closegap.core.errors import OptionError, SoundnessError
from closegap.core.verdict import Reason, Verdict
from closegap.graph.ops import Max
from closegap.specs.query import Query
from closegap.store.snapshots import SnapshotFile
from closegap.strategy.continuation import bring_back
from closegap.strategy.engines import ENGINES
from closegap.strategy.engines.gradient import has_signs_of_images
from closegap.strategy.engines.input_split import suits_boxes
from closegap.strategy.optimum import check_optimum, close_bracket, is_closed
from closegap.strategy.result import Result
from closegap.strategy.sequence import run_engines
from closegap.strategy.session import Session
from closegap.strategy.settings import check_settings
from closegap.strategy.shelf import Shelf

__all__ = ["DEFAULT_ENGINES", "check_engines", "solve"]

#: The order in which engines run unless the user says otherwise: cheap ones first. Where boxes are
#: cheaper than CROWN of the whole region, they go before it; so do, on convolutional networks with
#: signs, of which CROWN is slow and proves little, strong attacks, and where nothing is pooled the
#: engine of binarized networks before these.
DEFAULT_ENGINES: tuple[str, ...] = (
    "clean",
    "pgd",
    "crown",
    "binarized",
    "input-split",
    "alpha-crown",
    "strong-pgd",
    "region-walk",
    "near-attack",
    "refine",
    "layered",
    "cut-roots",
    "cutoff",
    "bab",
    "cuts",
    "mip",
)

_ADVICE = {
    Reason.TIME: "the time ran out; try a longer --timeout",
    Reason.MEMORY: "an engine ran out of memory",
    Reason.NODES: "the node limit was reached; try more --nodes",
    Reason.NUMERICAL: "a bound was not finite",
    Reason.INCOMPLETE: "every engine that was asked for has finished; try more engines",
    Reason.INTERRUPTED: "the run was interrupted",
    Reason.ENGINE_FAILED: "an engine failed",
}


def check_engines(engines: Sequence[str]) -> tuple[str, ...]:
    """The names, if every one is an engine.

    Raises:
        OptionError: a name is unknown, or there is none.
    """
    unknown = [name for name in engines if name not in ENGINES]
    if unknown:
        raise OptionError(f"unknown engine '{unknown[0]}'; known engines: {', '.join(ENGINES)}")
    if not engines:
        raise OptionError(f"no engine given; known engines: {', '.join(ENGINES)}")
    return tuple(engines)


def solve(
    query: Query,
    *,
    timeout: float = 60.0,
    engines: Sequence[str] = DEFAULT_ENGINES,
    budget: Budget | None = None,
    settings: Mapping[str, str] | None = None,
    snapshot: SnapshotFile | None = None,
    optimum: bool = False,
) -> Result:
    """Close the query's bracket as far as the time allows.

    Args:
        query: what to decide.
        timeout: seconds; kept.
        engines: names, in the order to run them; the default order fits itself to the query.
        budget: replaces `timeout` where more than a deadline is to be limited.
        settings: fields of engines' options by key, such as `{"bab.branching": "fsb"}`.
        snapshot: where a long search is kept now and then; a query that was cut off goes on inside
            it, and the time it took before counts. Not while `optimum` is asked for.
        optimum: do not stop at the verdict: go on until the least margin itself is known, to
            `OPTIMUM_TOLERANCE`.

    Returns:
        the bracket, the witness if there is one, and how they came about.

    Raises:
        OptionError: an engine's name or a setting is unknown, a setting's value does not fit, or
            the timeout is negative or NaN, or the query has no optimum to ask for.
        SoundnessError: a proof and a replayed witness exclude each other.
    """
    names, chosen = check_engines(engines), dict(settings or {})
    check_settings(chosen)
    if math.isnan(timeout) or timeout < 0:
        raise OptionError(f"timeout must not be negative, got {timeout}")
    spend = budget or Budget.of_seconds(timeout)
    if optimum:
        check_optimum(query)
    session = Session(query, Shelf(None if optimum else snapshot))
    names = _ordered(names, session)
    spend = spend.within(spend.remaining - bring_back(session))
    session.note(session.shelf.refusal)
    run = close_bracket if optimum else run_engines
    reason = run(session, names, chosen, spend)
    return _result(session, reason, optimum=optimum)


def _ordered(names: tuple[str, ...], session: Session) -> tuple[str, ...]:
    """The default order with what suits the query put before CROWN; other orders as they are."""
    if names != DEFAULT_ENGINES:
        return names
    if suits_boxes(session):
        return _before("crown", names, "input-split")
    if has_signs_of_images(session.query.network):
        names = _before("crown", names, "strong-pgd")
        pools = any(isinstance(node.op, Max) for node in session.query.network.nodes)
        return names if pools else _before("strong-pgd", names, "binarized")
    return names


def _before(other: str, names: tuple[str, ...], moved: str) -> tuple[str, ...]:
    place = names.index(other)
    return (*names[:place], moved, *(name for name in names[place:] if name != moved))


def _result(session: Session, reason: Reason, *, optimum: bool) -> Result:
    bracket = session.bracket
    if bracket.contradicts_itself:
        raise SoundnessError(
            f"{bracket.lower_engine} proved what {bracket.upper_engine} broke; "
            "no verdict is given: please report this network and query"
        )
    verdict = bracket.verdict
    if verdict is Verdict.UNKNOWN and not _finite(session):
        reason = Reason.NUMERICAL
    why = None if verdict is not Verdict.UNKNOWN else reason
    words = [] if why is None else [_ADVICE[why]]
    if why is not None and session.query.prop.strict and bracket.upper == 0.0:
        words.insert(0, "an input has margin 0: a tie, which is no break and allows no proof")
    if optimum and why is None and not is_closed(bracket):
        words = [f"the least margin is not known exactly: {_ADVICE[reason]}"]
    return Result(
        bracket=bracket,
        reason=why,
        detail="; ".join([*words, *session.notes]),
        clause_lower=session.clause_lower,
        target=_target(session),
        engine=_engine(bracket),
        seconds=session.seconds,
        engine_seconds=dict(session.engine_seconds),
        history=session.history,
        counts=dict(session.counts),
        part_seconds=dict(session.part_seconds),
    )


def _finite(session: Session) -> bool:
    bounds = session.bounds
    if bounds is None:
        return True
    return all(bool(b.lower.isfinite().all()) for b in bounds.activations.values())


def _engine(bracket: Bracket) -> str:
    if bracket.verdict is Verdict.FALSIFIED:
        return bracket.upper_engine
    return bracket.lower_engine or bracket.upper_engine


def _target(session: Session) -> str:
    """The clause the witness breaks, else the one that is hardest to prove."""
    prop = session.query.prop
    if not prop.clauses:
        return ""
    witness = session.bracket.witness
    if witness is not None and session.bracket.verdict is Verdict.FALSIFIED:
        margins = prop.clause_values(prop.row_margins(witness.outputs_float64[None]))[0]
        return prop.names[int(np.argmin(margins))]
    return prop.names[int(np.argmin(session.clause_lower))]
