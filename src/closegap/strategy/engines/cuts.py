"""Branch and cut: linear programs with Anderson cuts, where few neurons are unstable."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from closegap.bounds.chain import chain_nodes
from closegap.core.budget import Budget
from closegap.encode.reduced import read_entries, reduction_fits, reduction_pays
from closegap.graph.ops import Relu
from closegap.specs.region import Ball
from closegap.strategy.engines.mip import flat_bounds
from closegap.strategy.outlook import Outlook
from closegap.strategy.session import Session
from closegap.verify.bab.given import GivenRows
from closegap.verify.cutting.ascent import ClimbOptions, HullClimb
from closegap.verify.cutting.region import region_programs
from closegap.verify.cutting.rows import on_network
from closegap.verify.cutting.tree import CutSearch, SearchOptions

__all__ = ["CutEngine", "CutRootsEngine", "suits_cuts"]

#: With more unstable neurons the programs of a tree are too slow, unless each of them reads so
#: little that their rows have at most so many entries together.
_MOST_UNITS, _FEW_READ = 600, 40_000
#: Programs of roots alone may be larger: their duals become rows for other trees.
_MOST_READ = 800_000


@dataclass(frozen=True)
class CutRootsEngine:
    """Cuts the root of every open clause; trees go on with rows made of what that finds.

    Where branch and cut follows, it goes on from there too. Larger programs are no linear programs
    for a solver here: their duals are climbed on.

    Attributes:
        options: how to search.
        climb: how to climb on the duals of larger programs.
        share: of the time that is left, for all roots together.
    """

    options: SearchOptions = field(default_factory=SearchOptions)
    climb: ClimbOptions = field(default_factory=ClimbOptions)
    share: float = 0.25

    def run(self, session: Session, budget: Budget) -> None:
        """See `Engine`."""
        until = budget.within(self.share * budget.remaining)
        if session.bounds is None:
            session.learn_bounds(session.linear.activations(until))
        if suits_cuts(session):
            _searches(session, self.options, until)
        elif len(session.open_clauses) and _suits_roots(session):
            _climb_roots(session, self.climb, until)


@dataclass(frozen=True)
class CutEngine:
    """Searches the clauses that the cuts of their roots do not prove, easy ones first.

    Attributes:
        options: how to search.
        root_share: of the time that is left, for all roots together.
    """

    options: SearchOptions = field(default_factory=SearchOptions)
    root_share: float = 0.25

    def run(self, session: Session, budget: Budget) -> None:
        """See `Engine`."""
        until = budget.within(self.root_share * budget.remaining)
        searches = _searches(session, self.options, until)
        if not searches:
            return
        before, least = _grown(session, searches)
        outlook = session.held.setdefault("cuts outlook", Outlook(len(searches), least))
        assert isinstance(outlook, Outlook)
        outlook.timed(lambda: _grow(session, searches, budget))
        nodes, least = _grown(session, searches)
        session.count(cut_nodes=nodes - before)
        # Trees that hardly grew in their turn are as good as never closed.
        expected = outlook.by_bound(nodes, least, jumps=True)
        session.outlook["cuts"] = math.inf if expected is None else expected


def _grow(session: Session, searches: Mapping[int, CutSearch], budget: Budget) -> None:
    """Every tree has an equal share of the time, and what those before it left."""
    waiting = sorted(searches, key=lambda clause: -searches[clause].lower)
    while waiting and not (budget.expired or session.decided):
        share = budget.within(budget.remaining / len(waiting))
        clause = waiting.pop(0)
        searches[clause].run(share)
        _report(session, clause, searches[clause])


def _grown(session: Session, searches: Mapping[int, CutSearch]) -> tuple[int, float]:
    """Nodes of all trees, and the least bound of those that are searched."""
    held = session.held["cuts"]
    assert isinstance(held, dict)
    nodes = sum(search.nodes for search in held.values())
    return nodes, min(search.lower for search in searches.values())


def _climb_roots(session: Session, options: ClimbOptions, until: Budget) -> None:
    """Rows and bounds of all open clauses, those that are nearly proved first."""
    region, bounds = session.linear.exact_region, flat_bounds(session)
    programs = region_programs(session.query, region, bounds, until)
    given = _given(session)
    done = {rows.clause for rows in given}
    clauses = [int(clause) for clause in session.open_clauses if int(clause) not in done]
    for number, clause in enumerate(clauses):
        if programs is None or session.decided or until.expired:
            break
        program = programs.program(clause)
        if program is None:
            continue
        each = until.within(until.remaining / (len(clauses) - number))
        found = HullClimb(program, options).run(each)
        session.prove_clause(clause, found.lower, "cut-roots")
        if found.rows is not None:
            cuts = on_network(found.rows, program, programs.reduced, session.query.network)
            given.append(GivenRows(clause, cuts))


def _given(session: Session) -> list[GivenRows]:
    """Rows for trees, which are added to it."""
    given = session.held.setdefault("rows", [])
    assert isinstance(given, list)
    return given


def _searches(session: Session, options: SearchOptions, until: Budget) -> dict[int, CutSearch]:
    """The searches of the open clauses; roots are cut where no earlier turn did."""
    if session.bounds is None:
        session.learn_bounds(session.linear.activations(until))
    if not len(session.open_clauses) or not suits_cuts(session):
        return {}
    held = session.held.setdefault("cuts", {})
    assert isinstance(held, dict)
    missing = [int(clause) for clause in session.open_clauses if int(clause) not in held]
    if missing:  # those that are nearly proved first
        missing.sort(key=lambda clause: -float(session.clause_lower[clause]))
        held.update(_roots(session, missing, options, until))
    return {c: held[c] for c in map(int, session.open_clauses) if c in held}


def _roots(
    session: Session, clauses: list[int], options: SearchOptions, until: Budget
) -> dict[int, CutSearch]:
    """The searches of clauses, once their roots are cut."""
    region, bounds = session.linear.exact_region, flat_bounds(session)
    programs = region_programs(session.query, region, bounds, until)
    shape = session.query.network.input_shape
    searches: dict[int, CutSearch] = {}
    given = _given(session)
    for place, clause in enumerate(clauses):
        if programs is None or session.decided or until.expired:
            break
        program = programs.program(clause)
        if program is None:
            continue
        search = CutSearch(
            program,
            options,
            lambda point: session.offer(point.reshape(1, *shape), "cuts"),
            lambda: session.decided,
        )
        solved = search.root(until.within(until.remaining / (len(clauses) - place)))
        session.count(cut_nodes=search.nodes)
        _report(session, clause, search)
        searches[clause] = search
        if not solved:
            break  # the other clauses' programs are no smaller
        if search.rows is not None:
            cuts = on_network(search.rows, program, programs.reduced, session.query.network)
            given.append(GivenRows(clause, cuts))
    return searches


def _report(session: Session, clause: int, search: CutSearch) -> None:
    session.prove_tree(clause, float(search.lower), "cuts")


def suits_cuts(session: Session) -> bool:
    """True iff the tree can do something: ReLUs only, and a box; few are unstable or read much.

    Programs of neurons that read a few pixels each stay small, however many there are.
    """
    if not _has_programs(session):
        return False
    network, bounds = session.query.network, flat_bounds(session)
    count = sum(int(((low < 0) & (high > 0)).sum()) for low, high in bounds.values())
    if count <= _MOST_UNITS and reduction_pays(network, bounds):
        return True
    return read_entries(network, bounds) <= _FEW_READ and reduction_fits(network, bounds)


def _suits_roots(session: Session) -> bool:
    """True iff one program of each clause is worth its time."""
    if suits_cuts(session):
        return True
    network = session.query.network
    if not _has_programs(session) or chain_nodes(network) is not None:
        return False
    bounds = flat_bounds(session)
    return read_entries(network, bounds) <= _MOST_READ and reduction_fits(network, bounds)


def _has_programs(session: Session) -> bool:
    network = session.query.network
    if session.bounds is None or isinstance(session.query.region, Ball):
        return False
    return all(isinstance(network.nodes[i].op, Relu) for i in network.activations)
