"""Leaves that wait for programs on a thread of their own: nothing is lost, nothing waits."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np
import pytest

from branching_cases import RELU_KINDS, Case, cases
from closegap.bounds.optimise import AscentOptions
from closegap.core.budget import Budget
from closegap.core.errors import SolverError
from closegap.search.tree import Tree
from closegap.specs.query import Query
from closegap.testing.enumeration import clause_margin
from closegap.verify.bab import finish, waiting
from closegap.verify.bab.bounder import DomainBounder
from closegap.verify.bab.finish import Finisher
from closegap.verify.bab.leaves import LeafPrograms
from closegap.verify.bab.options import BranchOptions
from closegap.verify.bab.outcome import BranchOutcome
from closegap.verify.bab.problem import SplitProblem, split_problem
from closegap.verify.bab.search import BranchAndBound
from closegap.verify.bab.small import SmallOptions, SmallPrograms
from closegap.verify.bab.waiting import Found, LeafOptions, WaitingRoom
from closegap.verify.incomplete import LinearVerifier

#: Few steps of the ascent: more splits, more leaves.
LAZY = AscentOptions(iterations=2, patience=2)
INLINE = BranchOptions(batch=4, root=LAZY, children=LAZY, leaves=LeafOptions("inline"))
THREAD = replace(INLINE, leaves=LeafOptions("thread"))


def problem_of(query: Query) -> SplitProblem:
    bounds = LinearVerifier(query).activations(Budget())
    problem = split_problem(query, bounds, np.arange(query.prop.clauses))
    assert problem is not None
    return problem


def decided(
    case: Case, options: BranchOptions, budget: Budget, small: SmallOptions | None = None
) -> BranchOutcome:
    """Search; a candidate counts where a clause is truly broken."""
    box, problem = case.query.region, problem_of(case.query)

    def judge(points: np.ndarray) -> bool:
        inside = np.clip(points, box.lower, box.upper)
        clauses = range(case.query.prop.clauses)
        return any(bool((clause_margin(case.query, c, inside) < 0).any()) for c in clauses)

    programs = None
    if small is not None:
        bounds = LinearVerifier(case.query).activations(Budget())
        programs = SmallPrograms(case.query, problem, bounds, small)
    outcome = BranchAndBound(problem, options, judge, small=programs).run(budget)
    assert outcome.accounting.balanced
    return outcome


def agrees(case: Case, outcome: BranchOutcome) -> bool:
    true = np.array(case.margins)
    sound = bool((outcome.lower[true < 0] <= true[true < 0]).all())
    if case.margin > 0:
        return sound and outcome.finished and bool(np.isposinf(outcome.lower).all())
    return sound and outcome.broken and not outcome.finished


def threads() -> set[str]:
    return {t.name for t in threading.enumerate() if t.name == "closegap-leaves"}


@pytest.fixture
def on_thread(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the threads on which leaves were decided."""
    names: list[str] = []
    solve = LeafPrograms.solve

    def noted(self: LeafPrograms, *args: object) -> object:
        names.append(threading.current_thread().name)
        return solve(self, *args)

    monkeypatch.setattr(LeafPrograms, "solve", noted)
    return names


@pytest.mark.parametrize("kind", RELU_KINDS)
def test_verdicts_agree_with_enumeration(
    kind: str, rng: np.random.Generator, on_thread: list[str]
) -> None:
    for case in cases(rng, RELU_KINDS[kind], 1):
        assert agrees(case, decided(case, THREAD, Budget.of_seconds(60)))
    assert "closegap-leaves" in on_thread
    assert not threads()


@pytest.mark.parametrize("kind", ["dense", "wide"])
def test_leaves_on_the_thread_prove_no_more_than_is_true(
    kind: str, rng: np.random.Generator, on_thread: list[str]
) -> None:
    # No candidate ends the search, so every leaf is decided, and each has its own answer.
    for case in cases(rng, RELU_KINDS[kind], 2, clauses=(1,), radius=0.8):
        search = BranchAndBound(problem_of(case.query), THREAD, lambda points: False)
        outcome = search.run(Budget.of_seconds(60))
        assert outcome.accounting.open == 0
        assert outcome.finished == (case.margin > 0)
        if case.margin < 0:
            assert outcome.lower[0] <= case.margin
            assert outcome.lower[0] == pytest.approx(case.margin, abs=1e-6)
    assert "closegap-leaves" in on_thread


def test_small_programs_on_the_thread_agree_with_enumeration(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = lambda self, deficit, *rest, **trial: np.ones(len(deficit), bool)  # noqa: E731
    tried, close = [], SmallPrograms.close

    def noted(self: SmallPrograms, *args: object) -> object:
        tried.append(threading.current_thread().name)
        return close(self, *args)

    monkeypatch.setattr(finish.SmallWorth, "wanted", everything)
    monkeypatch.setattr(SmallPrograms, "close", noted)
    small = SmallOptions(units=3, programs=6)
    for case in cases(rng, RELU_KINDS["dense"], 3):
        assert agrees(case, decided(case, THREAD, Budget.of_seconds(60), small))
    assert set(tried) == {"closegap-leaves"}


class Slow:
    """Programs on the thread wait: until so many batches were bounded, or a time is over."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, batches: int, seconds: float) -> None:
        self.seconds, self.batches, self.left = seconds, batches, batches
        self.asleep, self.awake = threading.Event(), threading.Event()
        self.seen: list[bool] = []
        solve, bound = LeafPrograms.solve, DomainBounder.bound

        def slow(programs: LeafPrograms, *args: object) -> object:
            if threading.current_thread().name == "closegap-leaves":
                self.left = self.batches
                self.asleep.set()
                self.seen.append(self.awake.wait(self.seconds))
            return solve(programs, *args)

        def counted(bounder: DomainBounder, *args: object) -> object:
            if self.asleep.is_set():
                self.left -= 1
            if self.left <= 0:
                self.awake.set()
            return bound(bounder, *args)

        monkeypatch.setattr(LeafPrograms, "solve", slow)
        monkeypatch.setattr(DomainBounder, "bound", counted)


def proved(rng: np.random.Generator, kind: str = "wide") -> Iterator[Case]:
    """Cases that hold; their trees have leaves."""
    return (case for case in cases(rng, RELU_KINDS[kind], 9, radius=0.8) if case.margin > 0)


def leafy(rng: np.random.Generator) -> Case:
    """One whose tree has leaves and is not small."""
    for case in proved(rng):
        outcome = decided(case, replace(INLINE, batch=1), Budget.of_seconds(60))
        if outcome.seconds.get("leaves", 0.0) > 0.01 and outcome.accounting.created > 60:
            return case
    raise AssertionError("no case has leaves")


def test_bounding_goes_on_while_a_program_runs(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = leafy(rng)
    slow = Slow(monkeypatch, batches=3, seconds=20.0)
    outcome = decided(case, replace(THREAD, batch=1), Budget.of_seconds(60))
    assert slow.seen[0]  # three batches were bounded before the first program ended
    assert agrees(case, outcome)
    assert outcome.seconds["worker"] > 0


def test_a_program_that_runs_late_delays_nothing_and_loses_nothing(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = leafy(rng)
    monkeypatch.setattr(waiting, "_GRACE", 0.2)
    with monkeypatch.context() as patched:
        slow = Slow(patched, batches=10**9, seconds=30.0)
        search = BranchAndBound(problem_of(case.query), THREAD, lambda points: False)
        began = time.monotonic()
        late = search.run(Budget.of_seconds(1.5))
        assert 1.4 < time.monotonic() - began < 8.0  # the program takes 30
        assert late.accounting.balanced
        assert late.accounting.open >= 1
        assert not late.finished
        assert (late.lower <= case.margins).any()
        assert late.seconds["waiting"] > 0.1
        # The thread is left behind; until it is back the search does without.
        assert threads()
        again = search.run(Budget.of_seconds(30))
        assert threads()
        assert agrees(case, again)
        slow.awake.set()
    ended = time.monotonic() + 10
    while threads() and time.monotonic() < ended:
        time.sleep(0.01)
    assert not threads()


def test_what_a_program_raises_closes_nothing(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, solve = leafy(rng), LeafPrograms.solve

    def failing(programs: LeafPrograms, *args: object) -> object:
        if threading.current_thread().name == "closegap-leaves":
            raise SolverError("no licence today")
        return solve(programs, *args)

    monkeypatch.setattr(LeafPrograms, "solve", failing)
    search = BranchAndBound(problem_of(case.query), THREAD, lambda points: False)
    with pytest.raises(SolverError, match="no licence today"):
        search.run(Budget.of_seconds(30))
    assert not threads()
    count = search.tree.accounting()
    assert count.balanced
    assert count.open >= 1
    monkeypatch.setattr(LeafPrograms, "solve", solve)
    assert agrees(case, search.run(Budget.of_seconds(60)))


@dataclass
class Kept:
    """Every state."""

    states: list[Mapping[str, np.ndarray]] = field(default_factory=list)
    due: bool = True

    def keep(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.states.append(arrays)


def test_leaves_that_wait_are_open_in_what_is_kept_and_decided_after_a_kill(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, kept, held = leafy(rng), Kept(), list[np.ndarray]()
    problem = problem_of(case.query)
    with monkeypatch.context() as patched:
        slow = Slow(patched, batches=6, seconds=20.0)
        search = BranchAndBound(problem, replace(THREAD, batch=1), lambda points: False)
        monkeypatch.setattr(
            kept, "keep", lambda a: (kept.states.append(a), held.append(search._finisher.waiting))
        )
        search.run(Budget.of_seconds(60), kept)
        assert slow.seen[0]
    waited = [n for n in range(len(held)) if len(held[n])]
    assert waited
    assert all(len(np.unique(nodes)) == len(nodes) for nodes in held)  # none was picked again
    for number in (waited[0], waited[-1]):
        state = kept.states[number]
        assert (state["state"][held[number]] == 0).all()
        for options in (INLINE, THREAD):
            again = BranchAndBound(problem, options, lambda points: False)
            again.resume(state)
            assert agrees(case, again.run(Budget.of_seconds(60)))


def test_under_a_node_limit_the_thread_changes_nothing(
    rng: np.random.Generator, on_thread: list[str]
) -> None:
    problem, budget = problem_of(leafy(rng).query), Budget.of_seconds(60, nodes=50, threads=2)
    on_thread.clear()
    searches = [BranchAndBound(problem, o, lambda points: False) for o in (INLINE, THREAD)]
    kept = Kept()
    one, other = searches[0].run(budget), searches[1].run(budget, kept)
    assert one.accounting == other.accounting
    assert (one.lower == other.lower).all()
    again = BranchAndBound(problem, THREAD, lambda points: False)
    again.resume(kept.states[len(kept.states) // 2])
    assert again.run(budget).accounting == one.accounting
    assert "closegap-leaves" not in on_thread


def test_inline_and_thread_give_the_same_verdicts(rng: np.random.Generator) -> None:
    problems = 0
    for kind in ("dense", "wide", "leaky"):
        for case in islice(cases(rng, RELU_KINDS[kind], 3, clauses=(1,), radius=0.8), 11):
            inline, thread = (decided(case, o, Budget.of_seconds(60)) for o in (INLINE, THREAD))
            assert agrees(case, inline)
            assert agrees(case, thread)
            assert inline.accounting.stuck == thread.accounting.stuck
            problems += 1
    assert problems > 30


def test_what_others_closed_stays_closed(rng: np.random.Generator) -> None:
    room, tree = WaitingRoom(), Tree()
    finisher = Finisher(problem_of(next(proved(rng)).query), lambda points: False)
    finisher._room = room
    tree.plant(3)
    free = threading.Event()

    def work(ended: object) -> Found:
        free.wait(20)
        nothing = np.zeros(3, bool)
        return Found(np.array([-1.0, -2.0, 3.0]), np.array([0, 0, 1], bool), ~nothing, np.zeros(0))

    with room.run(threaded=True):
        room.give(np.arange(3), small=False, work=work)
        assert finisher.waiting.tolist() == [0, 1, 2]
        assert tree.least_lower().tolist() == [-np.inf] * 3
        assert not len(finisher.collect(tree).nodes)
        tree.close(np.array([0]))
        free.set()
        finisher.wait(Budget.of_seconds(20))
        tree.give_up(np.array([2]))
        assert finisher.collect(tree).nodes.tolist() == [0, 1, 2]
    assert tree.least_lower().tolist() == [np.inf, -2.0, -np.inf]
    assert tree.accounting().balanced


def test_where_programs_run() -> None:
    many = Budget.of_seconds(9, threads=2)
    assert not LeafOptions().threaded(Budget.of_seconds(9, threads=1))
    assert not LeafOptions("inline").threaded(many)
    assert LeafOptions("thread").threaded(Budget.of_seconds(9))
    assert not LeafOptions("thread").threaded(replace(many, nodes=5))


@pytest.mark.parametrize(("cores", "threaded"), [(1, False), (2, True)])
def test_auto_needs_a_core(cores: int, threaded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "available_cores", lambda: cores)
    assert LeafOptions().threaded(Budget.of_seconds(9, threads=2)) is threaded
