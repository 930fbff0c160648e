"""Least distances: brackets hold the enumerated optimum and close on tiny networks."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from onnx import helper

from closegap.attacks.activation.nearest import NearestAttack
from closegap.attacks.sparse.incumbent import Incumbent
from closegap.core.budget import Budget
from closegap.core.errors import EncodingError, OptionError, SolverError, SoundnessError, SpecError
from closegap.core.tolerance import Tolerance
from closegap.frontend import loads
from closegap.mip.registry import BACKENDS, backend
from closegap.runtime.cache import replayer
from closegap.specs.distance import DistanceQuery
from closegap.specs.objectives import (
    Grid,
    L0Distance,
    L1Distance,
    L1TvDistance,
    L2Distance,
    LinfDistance,
    Objective,
)
from closegap.specs.region import bounding_box
from closegap.strategy.bracketing import Bracketing
from closegap.strategy.distance import DistanceInterrupted, Means, minimise_distance
from closegap.strategy.exact_solvers import EXACT
from closegap.strategy.session import Session
from closegap.strategy.starts import counterexamples
from closegap.testing.distances import least_distance, pieces_of
from closegap.testing.enumeration import least_clause_margin
from closegap.testing.networks import onnx_model, random_mlp, random_sigmoid

NORMS = [1.0, 2.0, math.inf]


def corner_lost() -> DistanceQuery:
    """The image is one corner of the unit square, and near the opposite one the label is lost."""
    nodes = [
        helper.make_node("Gemm", ["input", "w", "b"], ["z"], transB=1),
        helper.make_node("Relu", ["z"], ["h"]),
        helper.make_node("Gemm", ["h", "v", "c"], ["output"], transB=1),
    ]
    weights = {
        "w": np.array([[1.0, 1.0]]), "b": np.array([-1.0]),
        "v": np.array([[0.0], [1.0]]), "c": np.array([0.0, -0.99]),
    }  # fmt: skip
    network = loads(onnx_model(nodes, weights, ["N", 2]), "a corner")
    return DistanceQuery.of_norm(network, np.zeros(2, dtype=np.float32), 0)


def asked(rng: np.random.Generator, norm: float) -> DistanceQuery:
    """A tiny network with both classes in the unit square, and an image it classifies right."""
    while True:
        network = random_mlp(rng, [2, 4, 3, 2])
        points = rng.random((200, 2)).astype(np.float32)
        labels = replayer(network).outputs_float32(points).argmax(axis=1)
        if 20 < labels.sum() < 180:
            return DistanceQuery.of_norm(network, points[0], int(labels[0]), norm)


@pytest.mark.parametrize("norm", NORMS)
def test_brackets_close_around_the_nearest_counterexample(
    rng: np.random.Generator, norm: float
) -> None:
    """Within the lower end no input breaks the property, as enumeration says; within upper one."""
    query = asked(rng, norm)
    result = minimise_distance(
        query, timeout=10, means=Means(attack=NearestAttack(rounds=1, steps=10))
    )
    assert 0 <= result.lower <= result.upper
    assert result.witness is not None
    witness = replayer(query.network).witness(query.within(result.upper), result.witness)
    assert witness is not None
    assert witness.breaks
    assert query.distance(result.witness) == result.upper
    assert result.closed
    assert result.upper <= least_distance(query) + 3e-6
    if norm != 2:
        assert least_clause_margin(query.within(result.lower), 0) > -1e-9
        assert least_clause_margin(query.within(result.upper), 0) < 1e-9


def test_exact_brackets_close_around_the_enumerated_distance(rng: np.random.Generator) -> None:
    """Also where the total variation weighs so much that a distance may be negative."""
    grid = Grid(1, 1, 2)
    query, weights = asked(rng, math.inf), np.array([0.5, 2.0])
    pieces = pieces_of(query)
    distances: list[tuple[Objective, str | None]] = [
        (L0Distance(grid), None),
        (L1Distance(weights), None),
        (L1TvDistance(grid, 1.5, isotropic=True), "mip"),
    ]
    for objective, exact in distances:
        one = replace(query, objective=objective)
        best = least_distance(one, pieces)
        result = minimise_distance(
            one, timeout=5, means=Means(attack=NearestAttack(rounds=1, steps=10)), exact=exact
        )
        assert result.lower <= best + 1e-9
        assert result.upper >= best - 1e-9
        assert result.upper - result.lower <= 1e-3
        assert result.witness is not None
        assert one.distance(result.witness) == result.upper
        assert "starts" in result.part_seconds


def test_a_misclassified_image_is_its_own_counterexample(rng: np.random.Generator) -> None:
    query = asked(rng, math.inf)
    wrong = DistanceQuery(query.network, query.image, 1 - query.label)
    result = minimise_distance(wrong, timeout=5)
    assert (result.lower, result.upper, result.closed) == (0.0, 0.0, True)


def nowhere_lost(rng: np.random.Generator) -> DistanceQuery:
    """A tiny network that gives no input of the box another class, as enumeration says."""
    image = rng.random(2).astype(np.float32)
    while True:
        network = random_mlp(rng, [2, 4, 3, 2])
        label = int(replayer(network).outputs_float32(image[None])[0].argmax())
        query = DistanceQuery.of_norm(network, image, label, math.inf)
        if math.isinf(least_distance(query)):
            return query


@pytest.mark.parametrize("exact", [None, "tree", "mip"])
@pytest.mark.parametrize(
    "objective",
    [
        LinfDistance(),
        L2Distance(),
        L1Distance(),
        L0Distance(Grid(1, 1, 2)),
        L1TvDistance(Grid(1, 1, 2), 0.4),
        L1TvDistance(Grid(1, 1, 2), 0.4, "difference"),
    ],
)
def test_that_there_is_no_counterexample_at_all_is_an_answer(
    rng: np.random.Generator, objective: Objective, exact: str | None
) -> None:
    query = replace(nowhere_lost(rng), objective=objective)
    quick = NearestAttack(rounds=1, steps=10)
    result = minimise_distance(query, timeout=20, means=Means(attack=quick), exact=exact)
    assert result.none_exists and result.closed and result.seconds < 15
    assert (result.lower, result.upper, result.witness) == (math.inf, math.inf, None)


def test_none_found_is_not_none_there() -> None:
    """One corner of the box loses the label: to prove what is nearer is not enough."""
    for objective in (LinfDistance(), L1Distance(), L1TvDistance(Grid(1, 1, 2), 0.4)):
        query = replace(corner_lost(), objective=objective)
        corner = query.distance(np.ones(2, dtype=np.float32))
        for told in (query.farthest, corner):
            incumbent = Incumbent(query, lambda *_: False)
            incumbent.prove(told)
            assert incumbent.lower == told
            search = Bracketing(query, Tolerance(), NearestAttack(), Budget.of_seconds(1))
            search._prove(told)
            assert search.result().lower == told and not search.result().closed
        result = minimise_distance(query, timeout=5)
        assert result.witness is not None and not result.none_exists


def test_a_counterexample_where_none_was_proved_is_reported() -> None:
    query = corner_lost()
    search = Bracketing(query, Tolerance(), NearestAttack(), Budget.of_seconds(1))
    search._prove(math.inf)
    with pytest.raises(SoundnessError, match="proved"):
        search._counts(np.ones(2, dtype=np.float32), query.distance(np.ones(2)))
    incumbent = Incumbent(query, lambda *_: True)
    incumbent.prove(math.inf)
    with pytest.raises(SoundnessError, match="proved"):
        incumbent.offer(np.ones(2))


def test_who_could_do_nothing_is_named(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise EncodingError("no such node")

    monkeypatch.setattr("closegap.attacks.sparse.generic.encode", refused)
    smooth = random_sigmoid(rng, [2, 4, 2])
    image = rng.random(2).astype(np.float32)
    label = int(replayer(smooth).outputs_float32(image[None])[0].argmax())
    objective = L1TvDistance(Grid(1, 1, 2))
    query = DistanceQuery(smooth, image, label, objective)
    search = Bracketing(query, Tolerance(), NearestAttack(rounds=1, steps=10), Budget.of_seconds(6))
    for name in ("tree", "mip"):
        search.solve(name)
    tree, mip = search.result().notes
    assert "other activations than ReLUs" in tree and mip == "mip: clause 0: no such node"


@pytest.mark.parametrize("isotropic", [False, True])
def test_a_picture_of_one_pixel_has_no_variation(rng: np.random.Generator, isotropic: bool) -> None:
    """Warnings are errors: no part of it fails."""
    network = random_mlp(rng, [1, 2])
    image = rng.random(1).astype(np.float32)
    label = int(replayer(network).outputs_float32(image[None])[0].argmax())
    objective = L1TvDistance(Grid(1, 1, 1), kappa=1.0, isotropic=isotropic)
    query = DistanceQuery(network, image, label, objective)
    search = Bracketing(query, Tolerance(), NearestAttack(rounds=1, steps=10), Budget.of_seconds(9))
    search.solve("mip")
    result, least = search.result(), least_distance(query)
    assert result.lower <= least + 1e-7 and not result.notes
    assert result.closed


@pytest.mark.parametrize(
    ("norm", "failing"),
    [
        (1.0, "closegap.strategy.bracketing.StagedSearch.begin"),
        (2.0, "closegap.strategy.bracketing.StagedSearch.grow"),
        (math.inf, "closegap.strategy.bracketing.Settling.run"),
        (math.inf, "closegap.strategy.bracketing.secant_floor"),
        (None, "closegap.strategy.bracketing.StagedSearch.grow"),
    ],
)
def test_what_fails_is_named_and_the_others_go_on(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, norm: float | None, failing: str
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise SolverError("no answer")

    monkeypatch.setattr(failing, fails)
    query = asked(rng, norm or 1.0)
    if norm is None:
        query = replace(query, objective=L1TvDistance(Grid(1, 1, 2)))
    result, least = minimise_distance(query, timeout=8), least_distance(query)
    assert result.closed and result.lower <= least + 1e-7 and least - 1e-7 <= result.upper
    assert any(note.endswith("failed: no answer") for note in result.notes)


def test_a_contradiction_is_no_failure_of_a_part(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def contradicts(*_: object, **__: object) -> None:
        raise SoundnessError("a proof and a counterexample")

    monkeypatch.setattr("closegap.strategy.bracketing.StagedSearch.grow", contradicts)
    with pytest.raises(SoundnessError):
        minimise_distance(asked(rng, 2.0), timeout=5)


@pytest.mark.parametrize("exact", list(EXACT))
def test_every_exact_solver_brackets_a_distance_alone(rng: np.random.Generator, exact: str) -> None:
    query = replace(asked(rng, 1.0), objective=L1TvDistance(Grid(1, 1, 2)))
    search = Bracketing(
        query, Tolerance(), NearestAttack(rounds=1, steps=10), Budget.of_seconds(20)
    )
    search.solve(exact)
    result, least = search.result(), least_distance(query)
    assert result.lower <= least + 1e-7 and least - 1e-7 <= result.upper <= least + 1e-3
    assert result.upper - result.lower <= 1e-3
    missing = exact in BACKENDS and not backend(exact).installed()
    assert bool(result.notes) is missing


def test_no_time_leaves_everything_open(rng: np.random.Generator) -> None:
    result = minimise_distance(asked(rng, math.inf), timeout=0)
    assert result.lower == 0
    assert not result.closed


@pytest.mark.parametrize("norm", [1.0, 2.0])
def test_an_interruption_carries_the_bracket(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, norm: float
) -> None:
    query, told = asked(rng, norm), Incumbent.prove

    def prove(incumbent: Incumbent, lower: float) -> None:
        told(incumbent, lower)
        if lower > 0 and incumbent.best.found:
            raise KeyboardInterrupt

    monkeypatch.setattr(Incumbent, "prove", prove)
    monkeypatch.setattr(Bracketing, "halve", lambda search: None)
    with pytest.raises(DistanceInterrupted) as stopped:
        minimise_distance(query, timeout=10, means=Means(attack=NearestAttack(rounds=1, steps=10)))
    monkeypatch.undo()
    cut, few = stopped.value.result, NearestAttack(rounds=1, steps=10)
    whole = minimise_distance(query, timeout=10, means=Means(attack=few))
    assert 0 < cut.lower <= whole.upper and whole.lower <= cut.upper
    assert cut.witness is not None and query.distance(cut.witness) == cut.upper


def test_norms_and_numbers_out_of_range_are_refused(rng: np.random.Generator) -> None:
    query = asked(rng, math.inf)
    with pytest.raises(OptionError, match="norm must be"):
        DistanceQuery.of_norm(query.network, query.image, 0, 3.0)
    with pytest.raises(OptionError, match="timeout -1 must not be negative"):
        minimise_distance(query, timeout=-1)
    for width in (math.inf, math.nan, -1.0, 0.0):
        with pytest.raises(OptionError, match="tolerance"):
            minimise_distance(query, tolerance=width)
    for objective in (
        L0Distance(Grid(1, 1, 3)),
        L1TvDistance(Grid(1, 1, 3)),
        L1Distance(np.ones(3)),
    ):
        with pytest.raises(SpecError, match="is of 3 inputs, the network has 2"):
            replace(query, objective=objective)
    for image in (np.zeros(3), np.zeros((2, 2)), np.zeros(0)):
        with pytest.raises(SpecError, match="the network 2 inputs"):
            replace(query, image=image.astype(np.float32))
    for entry in (math.nan, math.inf, -0.1, 1.1):
        with pytest.raises(SpecError, match=r"not a number in \[0, 1\]"):
            replace(query, image=np.array([0.5, entry], dtype=np.float32))
    with pytest.raises(OptionError, match="no exact solver"):
        minimise_distance(query, exact="abacus")


@pytest.mark.parametrize("norm", NORMS)
def test_what_is_proved_of_a_rounded_box_is_claimed_of_no_larger_ball(
    rng: np.random.Generator, norm: float
) -> None:
    query = asked(rng, norm)
    for radius in rng.random(20) * 10.0 ** -rng.integers(0, 9, 20):
        search = Bracketing(query, Tolerance(), NearestAttack(), Budget.of_seconds(1))
        if radius >= query.farthest:
            continue
        search._raise(float(radius))
        kept = Fraction(search.result().lower)
        box = bounding_box(query.within(float(radius)).region)
        for low, high, middle in zip(box.lower, box.upper, query.image, strict=True):
            center = Fraction(float(middle))
            assert Fraction(float(low)) <= max(center - kept, Fraction(0))
            assert Fraction(float(high)) >= min(center + kept, Fraction(1))
        assert kept >= Fraction(float(radius)) * Fraction(999, 1000) - Fraction(1, 10**15)


def lost_at(query: DistanceQuery, rng: np.random.Generator) -> np.ndarray:
    """Some counterexample, wherever it lies."""
    points = rng.random((200, *query.network.input_shape)).astype(np.float32)
    labels = replayer(query.network).outputs_float32(points).argmax(axis=1)
    return points[labels != query.label][0]


@pytest.mark.parametrize("objective", [L1Distance(), LinfDistance(), L0Distance(Grid(1, 1, 2))])
def test_a_query_begins_at_the_nearest_of_its_starts(
    rng: np.random.Generator, objective: Objective
) -> None:
    query = replace(asked(rng, math.inf), objective=objective)
    starts = [lost_at(query, rng) for _ in range(3)]
    nearest = min(query.distance(start) for start in starts)
    held = minimise_distance(query, timeout=0, starts=starts)
    assert held.upper == nearest and held.witness is not None
    assert query.distance(held.witness) == nearest
    assert held.lower <= least_distance(query) and not held.closed
    assert held.seen and all(query.distance(seen) >= nearest for seen in held.seen)
    wide = minimise_distance(query, timeout=0, starts=[starts[0].astype(np.float64)])
    assert wide.upper == query.distance(starts[0])
    closed = minimise_distance(query, timeout=10, starts=starts)
    assert closed.closed and closed.upper <= nearest
    assert closed.lower <= least_distance(query) + 1e-9 <= closed.upper + 1e-6


def test_a_start_that_is_no_counterexample_is_refused(rng: np.random.Generator) -> None:
    query = asked(rng, 1.0)
    lost = lost_at(query, rng)
    holes, beyond = lost.copy(), lost.copy()
    holes[0], beyond[0] = np.nan, 1.25
    refused = {
        "starts[1] is no counterexample: replayed, it keeps label": query.image,
        "starts[1] has shape [3], the network's input [2]": np.zeros(3, dtype=np.float32),
        "starts[1] has an entry that is not a number in [0, 1]": holes,
        "starts[1] has an entry that is not a number": beyond,
    }
    for text, start in refused.items():
        with pytest.raises(SpecError, match="^" + re.escape(text)):
            minimise_distance(query, timeout=0, starts=[lost, start])
    aimed = replace(query, target=1 - query.label)
    with pytest.raises(SpecError, match="it does not reach class"):
        minimise_distance(aimed, timeout=0, starts=[lost, query.image])


def test_of_any_points_the_counterexamples_are_chosen(rng: np.random.Generator) -> None:
    query = asked(rng, 1.0)
    lost = sorted((lost_at(query, rng) for _ in range(3)), key=query.distance)
    nothing = np.full(2, np.nan, dtype=np.float32)
    points = [query.image, nothing, np.zeros((1, 5)), lost[2], lost[0], lost[1], 2 + lost[0]]
    found = counterexamples(query, points, 2)
    assert [nearest.distance for nearest in found] == [query.distance(x) for x in lost[:2]]
    assert counterexamples(query, points, 2, below=query.distance(lost[0])) == ()
    session = Session(query.within(1.0))
    session.offer(np.stack([query.image, *lost]), engine="elsewhere")
    pooled = [candidate.point for candidate in session.pool.best()]
    from_pool = minimise_distance(
        query, timeout=0, starts=[n.point for n in counterexamples(query, pooled, 9)]
    )
    assert from_pool.upper < math.inf
