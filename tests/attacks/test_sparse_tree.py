"""The tree of least distances: against enumeration, whatever part of it is left out."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest

from closegap.attacks.sparse import starts
from closegap.attacks.sparse.ascent import Slopes
from closegap.attacks.sparse.ground import Ground, make_ground
from closegap.attacks.sparse.incumbent import Incumbent
from closegap.attacks.sparse.nodes import Nodes
from closegap.attacks.sparse.options import OURS, PAPER, Branching, Heuristic, Order, SparseOptions
from closegap.attacks.sparse.planes import Proof, Ranges
from closegap.attacks.sparse.reach import Reach
from closegap.attacks.sparse.search import SparseSearch
from closegap.attacks.sparse.tree import SparseTree
from closegap.core.budget import Budget
from closegap.core.errors import SoundnessError
from closegap.runtime.cache import replayer
from closegap.specs.distance import DistanceQuery
from closegap.specs.objectives import (
    Grid,
    L1Distance,
    L1TvDistance,
    L2Distance,
    LinfDistance,
    Objective,
)
from closegap.specs.objectives.l1_tv import VariationOf
from closegap.testing.distances import least_distance, pieces_of
from closegap.testing.networks import random_leaky, random_mlp

GRID = Grid(1, 2, 2)
EXACT: list[Objective] = [
    L1Distance(),
    L1Distance(np.array([0.5, 1.0, 2.0, 4.0])),
    L2Distance(),
    LinfDistance(),
    L1TvDistance(GRID),
    L1TvDistance(GRID, kappa=0.5),
    L1TvDistance(GRID, of="difference"),
    L1TvDistance(GRID, isotropic=True),
]
BARE = replace(OURS, attack=None)
#: One node after the other, by programs.
ALONE = replace(BARE, batch=0, order=Order.PLUNGE)
#: Each part left out alone, and rules exchanged.
VARIANTS: dict[str, SparseOptions] = {
    "ours": BARE,
    "paper": PAPER,
    "whole box": replace(BARE, cutoff=False),
    "programs alone": ALONE,
    "no sweeps": replace(ALONE, propagate=False, tighten=False),
    "no tightening": replace(ALONE, tighten=False),
    "no units again": replace(BARE, rebound=math.inf),
    "units again everywhere": replace(BARE, rebound=0.0),
    "no points of planes": replace(BARE, heuristic=Heuristic.CONSISTENT),
    "few together": replace(BARE, batch=3),
    "largest together": replace(BARE, branching=Branching.LARGEST),
    "gains together": replace(BARE, branching=Branching.GAINS, batch=4),
    "plunge together": replace(BARE, order=Order.PLUNGE, batch=4),
    "depth first together": replace(BARE, order=Order.DEPTH, batch=4),
    "no reduced costs": replace(ALONE, reduced_costs=False),
    "largest": replace(ALONE, branching=Branching.LARGEST),
    "gains": replace(ALONE, branching=Branching.GAINS),
    "best first": replace(ALONE, order=Order.BEST),
    "depth first": replace(ALONE, order=Order.DEPTH),
}


def asked(seed: int, *, leaky: bool = False) -> DistanceQuery:
    """A tiny network that knows more than one class, and an image of the most frequent."""
    rng = np.random.default_rng(seed)
    while True:
        network = (random_leaky if leaky else random_mlp)(rng, [4, 3, 3, 3])
        points = rng.random((200, 4)).astype(np.float32)
        labels = replayer(network).outputs_float32(points).argmax(axis=1)
        if np.bincount(labels).max() < 180:
            label = int(np.bincount(labels).argmax())
            return DistanceQuery(network, points[labels == label][0], label)


def judged(query: DistanceQuery, point: np.ndarray) -> bool:
    witness = replayer(query.network).witness(query.within(query.distance(point)), point)
    return witness is not None and witness.breaks


def solved(query: DistanceQuery, options: SparseOptions, seconds: float = 30.0):
    budget = Budget.of_seconds(seconds)
    return SparseTree(options).run(query, budget, lambda point, _: judged(query, point))


def test_every_distance_is_the_enumerated_one() -> None:
    query = asked(1)
    pieces = pieces_of(query)
    for objective in EXACT:
        wanted = replace(query, objective=objective)
        least = least_distance(wanted, pieces)
        found = solved(wanted, BARE)
        assert found.closed and found.accounting.balanced
        assert found.lower <= least + 1e-7
        assert found.upper >= least - 1e-7
        assert OURS.tolerance.closes(found.lower, found.upper)
        assert objective.integral or found.upper <= least + 3e-6
        assert found.witness is not None and judged(wanted, found.witness)


@pytest.mark.parametrize(
    ("name", "objective"),
    [
        *((name, L1Distance()) for name in VARIANTS),
        *((name, objective) for name in ("paper", "gains") for objective in EXACT[2:4]),
    ],
)
def test_every_part_may_be_left_out(name: str, objective: Objective) -> None:
    query = replace(asked(7), objective=objective)
    least, found = least_distance(query), solved(query, VARIANTS[name])
    assert found.accounting.balanced
    assert found.lower <= least + 1e-7 and found.upper >= least - 1e-7
    assert found.closed and OURS.tolerance.closes(found.lower, found.upper)


def test_leaky_networks_and_single_targets() -> None:
    leaky = replace(asked(3, leaky=True), objective=L1Distance())
    for query in (leaky, replace(asked(4), objective=L1Distance(), target=2)):
        if query.label == query.target:
            query = replace(query, target=1)
        least, found = least_distance(query), solved(query, BARE)
        assert found.lower <= least + 1e-7
        if math.isfinite(least):
            assert found.closed and found.upper - least <= 2 * OURS.tolerance.width(least)


def test_a_counterexample_below_a_proof_is_an_error() -> None:
    query = replace(asked(1), objective=L1Distance())
    incumbent = Incumbent(query, lambda *_: True)
    image = query.image.reshape(-1)
    assert incumbent.offer(image + np.where(image > 0.5, -0.1, 0.1))
    incumbent.prove(math.inf)
    assert incumbent.lower == incumbent.distance
    with pytest.raises(SoundnessError, match="as was proved"):
        incumbent.offer(image + np.where(image > 0.5, -0.01, 0.01))


def grounded(query: DistanceQuery, limit: float) -> Ground:
    ground = make_ground(query, limit, Budget())
    assert ground is not None
    return ground


def test_the_ground_is_the_network() -> None:
    query = replace(asked(5), objective=L1Distance())
    ground = grounded(query, 1.0)
    rng = np.random.default_rng(0)
    prop = query.within(1.0).prop
    for _ in range(50):
        step = rng.normal(size=4)
        point = np.clip(query.center + step / np.abs(step).sum(), 0, 1).astype(np.float32)
        outputs = replayer(query.network).outputs_float64(point[None])[0]
        values, margins = ground.forward(point - query.center)
        assert np.allclose(margins, prop.rows @ outputs + prop.offsets, atol=1e-9)
        both = ground.forward(np.stack([0 * query.center, point - query.center]))
        assert np.allclose(both[0][1], values) and np.allclose(both[1][1], margins)


def test_bounds_grow_from_planes_to_programs_to_children() -> None:
    """Propagation <= the node's program <= its children's, down every branch."""
    for objective in (L1Distance(), L2Distance()):
        query = replace(asked(11), objective=objective)
        ground = grounded(query, 2.0)
        nodes = Nodes(ground, objective, Budget())
        for row in range(len(ground.rows)):
            down(nodes, row, Ranges(ground.low, ground.high), -math.inf)


def down(nodes: Nodes, row: int, ranges: Ranges, above: float) -> None:
    """Check a node against its parent and its own planes, then its children."""
    plane, _ = nodes.propagated(row, ranges)
    lower = nodes.solve(row, ranges, math.inf)[0].lower
    assert lower >= min(above, 2.0) - 1e-6
    assert lower >= min(plane, 2.0) - 1e-6
    free = np.flatnonzero(ranges.free)
    if len(free) and math.isfinite(lower):
        for sign in (1, -1):
            down(nodes, row, ranges.split(int(free[0]), sign), lower)


@pytest.mark.parametrize("objective", [L1Distance(), L2Distance(), LinfDistance()])
def test_climbed_bounds_are_below_the_program_s(objective: Objective) -> None:
    query = replace(asked(11), objective=objective)
    ground = grounded(query, 1.0)
    nodes = Nodes(ground, objective, Budget())
    whole, rng = Ranges(ground.low, ground.high), np.random.default_rng(0)
    count = len(ground.rows)
    held = [whole] * count
    for unit in rng.permutation(np.flatnonzero(whole.free))[:3]:
        held += [ranges.split(int(unit), int(rng.choice([-1, 1]))) for ranges in held[-count:]]
    ranges = Ranges(np.stack([r.low for r in held]), np.stack([r.high for r in held]))
    rows = np.arange(len(held)) % count
    start = Slopes.of(ground, ranges)
    none, few, many = (nodes.climbed(rows, ranges, start, steps)[0] for steps in (0, 5, 50))
    for at, (row, node) in enumerate(zip(rows.tolist(), held, strict=True)):
        exact = nodes.solve(row, node, math.inf)[0].lower
        if exact < 1.0:
            assert max(none[at], few[at], many[at]) <= exact + 1e-6


def test_sweeps_keep_every_nearer_counterexample() -> None:
    rng = np.random.default_rng(0)
    for seed in range(2):
        query = replace(asked(seed), objective=L1Distance())
        limit = 0.8
        ground = grounded(query, limit)
        nodes = Nodes(ground, query.objective, Budget())
        steps = rng.normal(size=(600, 4)) * rng.random((600, 4)) ** 4
        steps *= limit * rng.random((600, 1)) / np.abs(steps).sum(axis=1, keepdims=True)
        points = np.clip(query.center + steps, 0, 1) - query.center
        for row in range(len(ground.rows)):
            ranges = Ranges(ground.low, ground.high)
            for _ in range(3):
                proof = nodes.propagated(row, ranges)[1]
                ranges = nodes.swept(ranges, [proof])
            seen = [ground.forward(point) for point in points[:300]]
            values = np.array([v for v, m in seen if m[row] <= 0]).reshape(-1, ground.units)
            assert ((values >= ranges.low - 1e-9) & (values <= ranges.high + 1e-9)).all()


@pytest.mark.parametrize("norm", [0, 1, 2])
def test_the_least_slope_over_a_reach_is_a_bound(norm: int) -> None:
    rng = np.random.default_rng(1)
    low, high = -rng.random(6), rng.random(6)
    reach = Reach(low, high, norm, 0.7)
    slopes = rng.normal(size=(20, 6))
    steps = rng.uniform(low, high, size=(4000, 6))
    if norm:
        sizes = np.linalg.norm(steps, norm, axis=1, keepdims=True)
        steps = steps * np.minimum(1.0, 0.7 / sizes)
    values = (slopes @ steps.T).min(axis=1)
    corner = np.where(slopes > 0, low, high)
    for scale in (1.0, 1e-31, 1e-33):  # units may have any scale
        bounds = reach.least(scale * slopes) / scale
        assert (bounds <= values + 1e-12).all()
        assert (bounds >= (slopes * corner).sum(axis=1) - 1e-9).all()
    if norm < 2:  # tiny weights of an l1 norm make balls so large
        wide = Reach(low, high, norm, 1e40).least(slopes)
        assert wide == pytest.approx((slopes * corner).sum(axis=1), abs=1e-9)


@pytest.mark.parametrize(
    "of, isotropic", [("image", False), ("image", True), ("difference", False)]
)
def test_flows_bound_slopes_where_the_variation_is_small(
    of: VariationOf, *, isotropic: bool
) -> None:
    rng = np.random.default_rng(2)
    objective, image, limit = L1TvDistance(GRID, 0.2, of, isotropic), rng.random(4), 0.6
    low, high = -image, 1 - image
    reach = Reach(low, high, 1, 4.0, limit, objective.variation_around(image))
    assert reach.variation is not None
    steps = rng.uniform(low, high, size=(20000, 4)) * rng.random((20000, 1))
    steps = steps[objective.value(image, image + steps) <= limit]
    slopes = rng.normal(size=(20, 4))
    start = np.tile(reach.variation.start(), (20, 1))
    raised = reach.raised(slopes.astype(np.float32), start, 60)
    first, bounds = reach.least_along(slopes, start), reach.least_along(slopes, raised)
    values = (slopes @ steps.T).min(axis=1)
    assert (bounds <= values + 1e-12).all()
    assert (bounds >= first - 1e-5).all()
    assert bounds.sum() >= 1.3 * values.sum()


@pytest.mark.parametrize("count", [0, 1, 3, 4, 9])
def test_few_pixels_lower_a_slope_by_the_best_of_them(count: int) -> None:
    rng = np.random.default_rng(4)
    grid, image = Grid(3, 2, 2), rng.random(12)
    reach = Reach(-image, 1 - image, 1, 4.0, grid=grid, count=count)
    slopes = rng.normal(size=(20, 12))
    gains = np.abs(slopes) * np.where(slopes > 0, image, 1 - image)
    each = gains.reshape(20, 3, 4).sum(axis=1)
    best = [max(each[row, list(c)].sum() for c in combinations(range(4), min(count, 4)))
            for row in range(20)]  # fmt: skip
    bounds = reach.least(slopes)
    assert (bounds <= -np.array(best)).all() and bounds == pytest.approx(-np.array(best), abs=1e-9)
    points = reach.point(slopes.astype(np.float32))
    assert (slopes * points).sum(axis=1) == pytest.approx(bounds, abs=1e-4)


def test_next_to_a_lost_label_no_phase_is_open() -> None:
    query = asked(1)
    outputs = replayer(query.network).outputs_float32
    points = np.random.default_rng(3).random((100, 4)).astype(np.float32)
    lost = points[outputs(points).argmax(axis=1) != query.label][0]
    kept = query.image
    for _ in range(12):
        middle = (kept + lost) / 2
        keeps = outputs(middle[None])[0].argmax() == query.label
        kept, lost = (middle, lost) if keeps else (kept, middle)
    near = replace(query, image=kept, objective=L1Distance())
    budget = Budget.of_seconds(30.0)
    found = SparseTree(BARE).run(near, budget, lambda point, _: judged(near, point), [lost])
    assert found.units == 0 and found.closed
    assert found.lower <= least_distance(near) + 1e-8 <= found.upper + 2e-8


def test_a_tree_behind_what_is_known_gives_up() -> None:
    query = replace(asked(1), objective=L1Distance())
    known = least_distance(query) - 1e-3
    budget = Budget.of_seconds(30.0)
    options = replace(BARE, known=known)
    found = SparseTree(options).run(query, budget, lambda point, _: judged(query, point))
    assert known <= found.lower <= found.upper


def test_no_time_a_lost_label_and_a_deadline() -> None:
    query = replace(asked(0), objective=L1Distance())
    none = solved(query, BARE, 0.0)
    assert none.lower == 0.0 and not none.closed and none.reason is not None
    wrong = replace(query, label=(query.label + 1) % 3)
    lost = solved(wrong, BARE)
    assert lost.upper == 0.0 and lost.lower == 0.0 and lost.closed
    large = random_mlp(np.random.default_rng(0), [40, 60, 60, 60, 3])
    image = np.full(40, 0.5, dtype=np.float32)
    label = int(replayer(large).outputs_float32(image[None])[0].argmax())
    hard = DistanceQuery(large, image, label, L1Distance())
    begun = time.monotonic()
    found = solved(hard, BARE, 0.5)
    assert time.monotonic() - begun < 2.0
    assert found.accounting.balanced and found.lower >= 0.0


def test_trees_of_large_networks_begin_with_all_attacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starts, "_FEW", 0)
    query = replace(asked(1), objective=L2Distance())
    best = Incumbent(query, lambda point, _: judged(query, point))
    SparseSearch(OURS, query, Budget.of_seconds(8), best).begin(())
    assert best.best.point is not None and judged(query, best.best.point)
    least = least_distance(query)
    assert least - 1e-7 <= best.distance <= 1.01 * least


def test_a_limit_of_nodes_and_points_to_start_from() -> None:
    query = replace(asked(7), objective=L2Distance())
    best = solved(query, BARE)
    assert best.witness is not None
    tree = SparseTree(replace(BARE, propagate=False, tighten=False, cutoff=False))
    judge = lambda point, _: judged(query, point)  # noqa: E731
    few = tree.run(query, replace(Budget(), nodes=1), judge, [best.witness])
    assert few.upper == best.upper
    assert few.lower <= best.upper and few.accounting.balanced
    lowers = [low for _, low, _ in best.history]
    assert lowers == sorted(lowers)


def test_phases_are_fixed_by_the_best_distance_not_by_the_cutoff(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    query, best, seen = replace(asked(0), objective=L1Distance()), [math.inf], []
    implied = Nodes.implied

    def watched(self: Nodes, proof: Proof, ranges: Ranges, cutoff: float) -> Ranges:
        seen.append(cutoff - best[0] if math.isfinite(best[0]) else 0.0)
        return implied(self, proof, ranges, cutoff)

    def judge(point: np.ndarray, distance: float) -> bool:
        counts = judged(query, point)
        best[0] = min(best[0], distance) if counts else best[0]
        return counts

    monkeypatch.setattr(Nodes, "implied", watched)
    options = replace(PAPER, reduced_costs=True)
    found = SparseTree(options).run(query, Budget.of_seconds(30.0), judge)
    assert found.closed and min(seen) >= 0


def test_a_negative_limit_is_no_reason_for_another_ground(monkeypatch: pytest.MonkeyPatch) -> None:
    query, limits = replace(asked(1), objective=L1TvDistance(GRID, kappa=2.0)), []

    def counted(query: DistanceQuery, limit: float, *others: Any, **options: Any) -> Ground | None:
        limits.append(limit)
        return make_ground(query, limit, *others, **options)

    monkeypatch.setattr("closegap.attacks.sparse.search.make_ground", counted)
    found = solved(query, replace(BARE, batch=0))
    assert found.closed and found.upper < 0
    assert len(limits) == len(set(limits))
