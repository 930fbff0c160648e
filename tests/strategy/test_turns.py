"""Whose turn it is: every engine runs, shares never exceed what is left, trees go on."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from closegap.bounds.optimise import AscentOptions
from closegap.core.budget import Budget
from closegap.core.verdict import Verdict
from closegap.search.tree import Tree
from closegap.specs.property import Property
from closegap.specs.query import Query, robustness
from closegap.specs.region import Box
from closegap.strategy.early import programs_take
from closegap.strategy.engines import ENGINES
from closegap.strategy.engines.cutoff import CutoffEngine
from closegap.strategy.engines.refine import RefineEngine
from closegap.strategy.outlook import Outlook, Patience
from closegap.strategy.session import Session
from closegap.strategy.solve import DEFAULT_ENGINES
from closegap.strategy.turns import turns
from closegap.testing.enumeration import clause_margin
from closegap.testing.networks import random_conv, random_mlp, random_sigmoid
from closegap.verify.cutoff import CutoffOptions


@pytest.fixture
def hard(rng):
    """Queries that linear bounds leave open."""
    network = random_mlp(rng, [5, 10, 10, 3])
    found = []
    while len(found) < 2:
        image = rng.random(5).astype(np.float32)
        for label in range(3):
            session = Session(robustness(network, image, label, 0.35))
            for name in ("clean", "pgd", "crown"):
                ENGINES[name]().run(session, Budget.of_seconds(5))
            if not session.decided:
                found.append(session)
    return found[:2]


def test_elsewhere_engines_run_in_order(rng):
    network = random_sigmoid(rng, [4, 5, 3])
    session = Session(robustness(network, np.full(4, 0.5, np.float32), 0, 0.2))
    names = [name for name in DEFAULT_ENGINES if name != "near-attack"]
    assert list(turns(names, session, Budget())) == [(name, 1.0) for name in names]


def test_long_attacks_leave_time_to_who_follows(rng):
    session = Session(robustness(random_mlp(rng, [3, 4, 2]), np.full(3, 0.5, np.float32), 0, 0.2))
    shares = {"crown": 1.0, "bab-attack": 0.5, "lippa": 0.5, "bab": 1.0}
    assert dict(turns(tuple(shares), session, Budget())) == shares
    assert list(turns(("crown", "bab-attack"), session, Budget())) == [
        ("crown", 1.0),
        ("bab-attack", 1.0),
    ]


def test_on_images_a_tree_begins_before_bounds_are_tightened(rng, monkeypatch):
    monkeypatch.setattr("closegap.strategy.turns._suits_cuts", lambda session: False)
    network = random_conv(rng)
    session = Session(robustness(network, np.full(network.input_shape, 0.5, np.float32), 0, 0.2))
    names = [name for name, _ in turns(("crown", "cutoff", "bab", "mip"), session, Budget())]
    assert names == ["crown", *["bab"] * 3, "cutoff", "bab", "mip"]
    budget = Budget.of_seconds(100)
    for seconds, more in ((75.0, 0.4), (85.0, 0.0), (np.inf, 0.0), (None, 0.0)):
        session.outlook["bab"] = seconds
        shares = [share for _, share in turns(("cutoff", "bab"), session, budget)]
        assert shares == [0.3, more, more, 0.15, 1.0]
    assert list(turns(("bab", "cutoff"), session, budget))[-1] == ("cutoff", 1.0)
    assert [name for name, _ in turns(("cutoff", "mip"), session, Budget())] == ["cutoff", "mip"]


def test_exact_searches_have_a_trial_where_few_units_are_undecided(hard):
    session, names = Session(hard[0].query), ("alpha-crown", "strong-pgd", "bab", "mip")
    budget = Budget.of_seconds(50)
    order = ["alpha-crown", "bab", "mip", "mip", "strong-pgd", "bab", "mip"]
    assert list(turns(names, session, budget))[1:4] == [("bab", 0), ("mip", 0), ("mip", 0)]
    session.learn_bounds(session.linear.activations(Budget()))
    for outlook, programs in ((None, True), (1e6, True), (1e-6, False)):
        turn = turns(names, session, budget)
        assert next(turn)[0] == "alpha-crown"
        assert next(turn) == ("bab", 0.02)
        session.outlook["bab"], session.held["bab"] = outlook, "a tree"
        assert (next(turn) != ("mip", 0)) == programs
        assert not session.held  # another tree begins with the bounds there are then
        assert not session.outlook
        assert next(turn) == ("mip", 0)  # nothing was gained
        assert [name for name, _ in turn] == order[4:]
    assert [share for _, share in turns(names, session, Budget(nodes=9))] == [1, 0, 0, 0, 1, 1, 1]
    assert [name for name, _ in turns(names[:-1], session, budget)] == list(names[:-1])


def test_a_trial_forgets_no_tree_but_its_own(hard):
    names, budget = ("alpha-crown", "bab", "mip"), Budget.of_seconds(50)
    session = Session(hard[0].query)
    session.learn_bounds(session.linear.activations(Budget()))
    session.outlook["bab"] = 7.0  # of a later turn, in which a run was cut off
    list(turns(names, session, budget))
    assert session.outlook["bab"] == 7.0
    ENGINES["bab"]().run(session, Budget(nodes=3))
    held = dict(session.held)
    assert [share for _, share in turns(names, session, budget)][1:4] == [0, 0, 0]
    assert session.held == held
    del session.held["bab"]  # a tree that only an attack has grown
    assert [share for _, share in turns(names, session, budget)][1:4] == [0, 0, 0]
    assert session.held


def test_programs_go_on_where_they_will_close_soon(hard):
    session, budget = Session(hard[0].query), Budget.of_seconds(500)
    session.learn_bounds(session.linear.activations(Budget()))
    for lower, goes_on in ((-2.0, False), (-0.1, True), (-0.1, False)):
        turn = turns(("alpha-crown", "bab", "mip"), session, budget)
        assert [next(turn)[0] for _ in range(3)] == ["alpha-crown", "bab", "mip"]
        for clause in session.open_clauses:
            session.prove_clause(int(clause), lower, "mip")
        assert (next(turn) != ("mip", 0)) == goes_on, lower
    assert programs_take(9, 2) - programs_take(0, 2) == pytest.approx(0.1)
    assert np.isfinite(programs_take(10**6, 9))


def test_one_of_the_pair_alone_has_one_turn(hard):
    assert list(turns(("crown", "bab", "mip"), hard[0], Budget())) == [
        ("crown", 1.0),
        ("bab", 1.0),
        ("mip", 1.0),
    ]


def test_shares_add_up_to_all_the_time(hard):
    left, spent = 1.0, {}
    for name, share in turns(("cutoff", "bab", "cuts"), hard[0], Budget()):
        assert 0 < share <= 1
        spent[name] = spent.get(name, 0.0) + share * left
        left -= share * left
    assert left == pytest.approx(0, abs=1e-9)
    assert spent["bab"] == pytest.approx(spent["cuts"])
    assert spent["cutoff"] < 0.2


def test_who_closes_faster_gets_more_of_a_round(hard):
    session = hard[0]
    session.outlook.update(bab=20.0, cuts=40.0)
    first = next(turns(("bab", "cuts"), session, Budget()))
    assert first[1] * 30 == pytest.approx(2 * 2 / 3)
    session.outlook["cuts"] = np.inf
    first = next(turns(("bab", "cuts"), session, Budget()))
    assert first[1] * 30 == pytest.approx(2 * 0.95)


def test_branch_and_cut_says_how_long_it_will_take(hard):
    session = hard[0]
    ENGINES["cuts"]().run(session, Budget.of_seconds(40))
    assert session.decided
    assert session.outlook["cuts"] == 0.0


def test_on_dense_layers_two_trees_take_turns(hard):
    session, names = hard[0], ("layered", "cutoff", "bab")
    pairs = list(turns(names, session, Budget()))
    assert [name for name, _ in pairs] == ["layered", "bab"] * 6 + ["cutoff", "bab"]
    left = np.cumprod([1.0] + [1 - share for _, share in pairs[:12]])
    assert left[-1] == pytest.approx(0, abs=1e-9)
    assert left[0] - left[1] == pytest.approx(0.5 / 63)
    session.outlook.update(layered=30.0, bab=10.0)
    (_, first), (_, second), *_ = turns(names, session, Budget())
    assert first * 63 == pytest.approx(1 / 4)
    assert (1 - first) * second * 63 == pytest.approx(3 / 4)
    session.outlook["layered"] = np.inf
    assert next(turns(names, session, Budget()))[1] * 63 == pytest.approx(1 / 5)
    session.outlook["bab"] = None
    assert next(turns(names, session, Budget()))[1] * 63 == pytest.approx(1 / 2)


def test_neurons_are_refined_between_the_rounds_of_two_trees(hard):
    pairs = list(turns(("refine", "layered", "bab"), hard[0], Budget()))
    trees = ["layered", "bab"]
    assert [n for n, _ in pairs] == [*trees, "refine", *trees * 2, "refine", *trees * 3, "bab"]
    left = np.cumprod([1.0] + [1 - share for _, share in pairs[:-1]])
    assert left[-1] == pytest.approx(0, abs=1e-9)
    assert left[2] - left[3] == pytest.approx(8 / 111)
    assert left[7] - left[8] == pytest.approx(40 / 111)


def test_trees_begin_again_with_refined_bounds(hard):
    session = Session(hard[0].query)
    RefineEngine().run(session, Budget(nodes=300))
    assert session.bounds is None  # it refines what is known, and nothing is
    known, least = session.linear.activations(Budget()), session.clause_lower.min()
    session.learn_bounds(known)
    session.held["layered"], session.outlook["layered"] = "a tree", 1.0
    RefineEngine().run(session, Budget(nodes=300))
    refined = session.bounds
    assert refined is not known
    assert session.counts["refined"] > 0
    assert not session.held
    assert not session.outlook
    assert session.clause_lower.min() >= least
    session.held["layered"] = "a tree"
    RefineEngine(least=1.1).run(session, Budget(nodes=300))
    assert session.held
    for feed, found in session.bounds.activations.items():
        assert (found.upper <= refined.activations[feed].upper).all()


def test_an_outlook_is_right_where_growth_is_even():
    outlook = Outlook(roots=2, root_lower=-8.0, seconds=1.0)
    assert outlook.by_bound(2, -8.0) is None
    assert outlook.by_bound(8, -6.0) == pytest.approx(2**6 - 1)
    outlook.seconds = 8.0
    assert outlook.by_bound(64, -2.0) == pytest.approx(8.0 * (2**1.5 - 1))
    assert outlook.by_bound(64, -2.0, jumps=True) == pytest.approx(8.0 * (2 ** (5 / 3) - 1))
    assert outlook.by_bound(128, -2.0) == np.inf
    assert outlook.by_bound(256, 1.0) == 0.0
    assert Outlook(2, -np.inf).by_bound(8, -1.0) is None
    assert outlook.by_share(1.0, 0) is None
    assert outlook.by_share(1.0, 3) == 8.0 * 8
    assert outlook.by_share(0.5, 3) == 8.0
    assert outlook.by_share(0.0, 3) == 0.0
    assert outlook.by_share(1.0, 5000) == np.inf


@pytest.mark.parametrize("name", ["bab", "cuts", "layered"])
def test_turns_end_where_one_long_turn_ends(hard, name):
    for session in hard:
        whole = Session(session.query)
        for engine in ("clean", "pgd", "crown", name):
            ENGINES[engine]().run(whole, Budget.of_seconds(20))
        for doubled in range(10):
            if session.decided:
                break
            ENGINES[name]().run(session, Budget.of_seconds(0.05 * 2**doubled))
        assert session.bracket.verdict is whole.bracket.verdict is not Verdict.UNKNOWN


@pytest.mark.parametrize("name", ["bab", "layered"])
def test_turns_count_every_node_once(hard, name):
    session = hard[0]
    for _ in range(5):
        if not session.decided:
            ENGINES[name]().run(session, Budget.of_seconds(0.1))
    held = session.held[name]
    assert session.counts["nodes"] == len(held.search._tree)


def test_cut_roots_leave_their_searches_to_the_tree(hard):
    for session in hard:
        ENGINES["cut-roots"]().run(session, Budget.of_seconds(40))
        roots = dict(session.held.get("cuts", {}))
        before = session.clause_lower.copy()
        ENGINES["cuts"]().run(session, Budget.of_seconds(20))
        assert all(session.held["cuts"][clause] is search for clause, search in roots.items())
        assert (session.clause_lower >= before).all()
        assert session.decided


def test_a_clause_proved_elsewhere_is_closed_in_the_tree(hard):
    session = hard[0]
    ENGINES["bab"]().run(session, Budget(nodes=1))
    for clause in session.open_clauses:
        session.prove_clause(int(clause), 1.0, "elsewhere")
    held = session.held["bab"].search
    held.settle(held._problem.clauses)
    assert held._tree.open_share == 0.0


def grown(patience_of, gain, closing=False, doublings=9):
    """When a tree is left whose least bound rises so much each time it doubles."""
    tree, clock = Tree(), [0.0]
    tree.add_roots(np.full(1, -1.0))
    patience = patience_of(tree, lambda: clock[0])
    for level in range(1, doublings + 1):
        nodes = tree.open_nodes()
        children = tree.split(nodes, np.full(len(nodes), level))
        tree.raise_lower(children, np.full(len(children), -1.0 + gain * level))
        if closing and level > 5:
            tree.close(children[len(children) // 4 :])
        clock[0] = 0.01 * len(tree)
        if patience.ended():
            return len(tree)
    return None


def test_a_tree_is_left_when_its_bound_rises_too_slowly():
    def asked(pace=2.0, **limits):
        budget = Budget.of_seconds(100, **limits)
        return lambda tree, clock: Patience(tree, budget, pace, clock)

    assert grown(asked(), 0.2) is None
    assert grown(asked(), 0.0) == grown(asked(), 0.02) == 1023  # in its first tenth it is never
    assert grown(asked(), 0.0, doublings=8) is None
    assert grown(asked(), 0.02, closing=True) is None
    assert grown(asked(pace=np.inf), 0.02) is None
    assert grown(asked(nodes=10**6), 0.0) is None
    endless = Budget()
    assert grown(lambda tree, clock: Patience(tree, endless, 2.0, clock), 0.02) is None


def test_bounds_where_a_clause_is_broken_are_left_when_they_rise_too_slowly(monkeypatch):
    rng = np.random.default_rng(3)
    network, box = random_mlp(rng, [5, 20, 20, 2]), Box(np.full(5, -1.0), np.full(5, 1.0))
    prop = Property(np.eye(2), np.zeros(2), np.arange(2), True, ("first", "second"))
    points = rng.uniform(-1, 1, size=(5000, 5))
    query = Query(network, box, prop)
    least = np.array([clause_margin(query, clause, points).min() for clause in range(2)])
    session = Session(replace(query, prop=replace(prop, offsets=0.8 - least)))
    monkeypatch.setattr("closegap.strategy.outlook._FIRST", 0.0)
    session.learn_bounds(session.linear.activations(Budget()))
    began, once = time.monotonic(), AscentOptions(iterations=1)
    options = CutoffOptions(neurons=once, margin=once, rounds=1)
    CutoffEngine(options, patience=0.0).run(session, Budget.of_seconds(100))
    assert time.monotonic() - began < 50
    assert 100 < session.counts["nodes"] < 2000
    assert (session.clause_lower <= clause_margin_of(session.query, points)).all()


def clause_margin_of(query, points):
    return np.array([clause_margin(query, clause, points).min() for clause in range(2)])
