"""Attacks of least distance against closed forms, enumeration and replay."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

import closegap as cg
from closegap.attacks.activation.nearest import Nearest
from closegap.attacks.gradient.hyperplane import least_in_box
from closegap.attacks.gradient.options import AttackOptions
from closegap.attacks.minimal.attack import MinimalAttack, replayed
from closegap.attacks.minimal.carlini_wagner import CarliniWagnerSearch
from closegap.attacks.minimal.ead import EADSearch
from closegap.attacks.minimal.lanes import (
    Best,
    Lanes,
    build_lanes,
    evaluate,
    in_ball,
    margins,
    sizes,
)
from closegap.attacks.minimal.polish import drawn, restored
from closegap.attacks.minimal.registry import MINIMAL, make_minimal
from closegap.attacks.minimal.settle import Settling
from closegap.attacks.minimal.weighting import Weighting
from closegap.core.budget import Budget
from closegap.core.errors import DataError, OptionError, SpecError
from closegap.graph import ops
from closegap.graph.network import Network
from closegap.runtime.cache import compiled, replayer
from closegap.specs.distance import DistanceQuery
from closegap.specs.objectives import Grid, make_objective
from closegap.testing.distances import least_distance, pieces_of
from closegap.testing.networks import random_conv, random_mlp
from tiny_networks import dense

NAMES = {0.0: "l0", 1.0: "l1", 2.0: "l2", math.inf: "linf"}
EVERY = [(name, norm) for name, (norms, _) in MINIMAL.items() for norm in norms]


def asked(
    network: Network, image: np.ndarray, norm: float, target: int | None = None
) -> DistanceQuery:
    """Around an image, of the class that the network gives it."""
    picture = image.astype(np.float32).reshape(network.input_shape)
    label = int(replayer(network).outputs_float32(picture[None])[0].argmax())
    return DistanceQuery(network, picture, label, make_objective(NAMES[norm], picture), target)


def small(name: str, norm: float, restarts: int = 4, share: float = 1.0) -> MinimalAttack:
    """With few steps, and where a weight is sought, few of them near the right one."""
    steps = {"ead": 20, "cw": 30, "sparsefool": 5, "deepfool": 10}.get(name, 40)
    sizes = AttackOptions(steps=math.ceil(share * steps), restarts=restarts)
    attack = make_minimal(name, sizes, norm)
    if isinstance(attack.method, EADSearch | CarliniWagnerSearch):
        return replace(attack, method=replace(attack.method, searches=5, first_weight=0.1))
    return attack


def affine_optimum(query: DistanceQuery, norm: float) -> float:
    """The least distance on an affine network, class by class: programs and greedy choice."""
    network = compiled(query.network, torch.float64)
    image = network.tensor(query.image[None]).requires_grad_()
    outputs = network(image)[0]
    best = math.inf
    for row, offset in zip(
        query.within(0.0).prop.rows, query.within(0.0).prop.offsets, strict=True
    ):
        value = (outputs * network.tensor(row)).sum() + offset
        (slope,) = torch.autograd.grad(value, image, retain_graph=True)
        best = min(
            best, _to_plane(slope[0].numpy().reshape(-1), float(value.detach()), query.center, norm)
        )
    return best


def _to_plane(slope: np.ndarray, margin: float, image: np.ndarray, norm: float) -> float:
    room, steep = np.where(slope > 0, image, 1 - image), np.abs(slope)
    if norm == 0:
        gains = np.sort(steep * room)[::-1].cumsum()
        return float((gains < margin).sum() + 1) if gains[-1] >= margin else math.inf
    if norm == 2:
        low, high = 0.0, 1e6
        for _ in range(200):
            middle = (low + high) / 2
            reached = steep @ np.minimum(middle * steep, room) >= margin
            low, high = (low, middle) if reached else (middle, high)
        return float(np.linalg.norm(np.minimum(high * steep, room))) if high < 1e5 else math.inf
    size = len(slope)
    cost = np.ones(size) if norm == 1 else np.append(np.zeros(size), 1.0)
    bounds = [(0, r) for r in room]
    if norm == 1:
        found = linprog(cost, A_ub=-steep[None], b_ub=[-margin], bounds=bounds)
    else:
        rows = np.hstack([np.eye(size), -np.ones((size, 1))])
        rows = np.vstack([rows, np.append(-steep, 0.0)])
        limits = np.append(np.zeros(size), -margin)
        found = linprog(cost, A_ub=rows, b_ub=limits, bounds=[*bounds, (0, None)])
    return float(found.fun) if found.status == 0 else math.inf


#: How much farther than the optimum an attack may stay on affine networks; in l0, pixels.
AFFINE = {
    "deepfool": 1.001, "fab-nearest": 1.001, "fmn": 1.1, "sparsefool": 1.1, "ead": 1.5, "cw": 1.5
}  # fmt: skip


@pytest.mark.parametrize(("name", "norm"), EVERY)
def test_near_the_closed_form_on_affine_networks(
    rng: np.random.Generator, name: str, norm: float
) -> None:
    network = random_mlp(rng, [12, 4])
    queries = [asked(network, 0.2 + 0.6 * rng.random(12), norm) for _ in range(4)]
    for query, found in zip(queries, small(name, norm).run_all(queries, Budget()), strict=True):
        optimum = affine_optimum(query, norm)
        assert found.found == math.isfinite(optimum)
        if found.found:
            assert found.distance >= optimum * (1 - 1e-6)
            allowed = optimum if norm == 0 else AFFINE[name] * optimum + 1e-3
            assert found.distance <= allowed


@pytest.mark.parametrize("norm", [1.0, 2.0, math.inf])
def test_never_below_the_enumerated_optimum(rng: np.random.Generator, norm: float) -> None:
    query, exact = None, math.inf
    while query is None or exact > 0.8:
        query = asked(random_mlp(rng, [2, 4, 2]), rng.random(2), norm)
        exact = least_distance(query)
    for name in (n for n, (norms, _) in MINIMAL.items() if norm in norms):
        found = small(name, norm, 2).run(query, Budget(), replayed(query))
        assert found.distance >= exact - 1e-6
        assert found.distance <= 1.5 * exact + 0.01


def test_pixel_counts_against_all_sets_of_pixels(rng: np.random.Generator) -> None:
    """At two of the images no unit is active for which the margin changes."""
    network = random_mlp(rng, [4, 4, 3])
    queries = [asked(network, rng.random(4), 0.0) for _ in range(4)]
    lanes = build_lanes(compiled(network, torch.float32), queries, 1, 8)
    slopes = evaluate(lanes, lanes.images).gradient.abs().amax(dim=1)
    assert slopes.tolist().count(0.0) == 2
    exact = [least_distance(query) for query in queries]
    for name in ("sigma-zero", "fmn", "sparsefool"):
        found = small(name, 0.0, 2, 0.5).run_all(queries, Budget())
        assert [f.distance for f in found] == exact


def pictured(rng: np.random.Generator) -> Network:
    """A network of which random pictures are in several classes."""
    while True:
        network = random_conv(rng, side=4)
        outputs = replayer(network).outputs_float32(
            rng.random((40, *network.input_shape)).astype(np.float32)
        )
        if np.bincount(outputs.argmax(axis=1)).max() < 30:
            return network


@pytest.mark.parametrize(("name", "norm"), EVERY)
def test_what_is_found_is_replayed_inside_the_box(
    rng: np.random.Generator, name: str, norm: float
) -> None:
    network = pictured(rng)
    query = asked(network, rng.random(network.input_shape), norm)
    found = small(name, norm, 1, 0.4).run(query, Budget(), replayed(query))
    assert found.point is not None
    assert found.point.dtype == np.float32
    assert found.point.min() >= 0
    assert found.point.max() <= 1
    outputs = replayer(network).outputs_float32(found.point[None])
    assert outputs.argmax() != query.label
    assert found.distance == query.distance(found.point)


def test_a_target_is_the_class_that_wins(rng: np.random.Generator) -> None:
    network = random_mlp(rng, [6, 8, 3])
    query = asked(network, rng.random(6), 2.0)
    for target in (t for t in range(3) if t != query.label):
        aimed = DistanceQuery(network, query.image, query.label, query.objective, target)
        found = small("fmn", 2.0, 2).run(aimed, Budget(), replayed(aimed))
        if found.point is not None:
            outputs = replayer(network).outputs_float32(found.point[None])[0]
            assert outputs[target] > outputs[query.label]


def test_channels_of_a_pixel_count_once(rng: np.random.Generator) -> None:
    network = random_conv(rng)
    image = rng.random(network.input_shape).astype(np.float32)
    query = asked(network, image, 0.0)
    lanes = build_lanes(compiled(network, torch.float32), [query], 1, 8)
    moved = image.copy()
    moved[:, 0, 1] = 1 - moved[:, 0, 1]
    offset = torch.from_numpy((moved - image).reshape(1, -1))
    assert sizes(lanes, offset, 0.0).tolist() == [1.0]
    assert query.distance(moved) == 1
    kept = in_ball(lanes, torch.rand(1, image.size), torch.tensor([2.0]), 0.0)
    assert query.distance(kept.numpy().reshape(image.shape)) == 2


@pytest.mark.parametrize("name", list(MINIMAL))
def test_the_seed_decides_and_company_does_not(rng: np.random.Generator, name: str) -> None:
    network = random_mlp(rng, [6, 8, 3])
    attack = small(name, MINIMAL[name][0][0], 2, 0.4)
    queries = [asked(network, rng.random(6), attack.method.norm) for _ in range(2)]
    first, second = (attack.run_all(queries, Budget(seed=3)) for _ in range(2))
    assert [f.distance for f in first] == [f.distance for f in second]
    alone = attack.run(queries[1], Budget(seed=3), replayed(queries[1]))
    assert alone.distance == pytest.approx(first[1].distance, rel=0.05)


def test_the_polish_never_loses(rng: np.random.Generator) -> None:
    corners = torch.rand((12, 16), generator=torch.Generator().manual_seed(0)).round()
    broken = torch.zeros(12, dtype=torch.bool)
    while broken.sum() < 4:
        network = random_mlp(rng, [16, 12, 3])
        queries = [asked(network, rng.random(16), 1.0) for _ in range(6)]
        lanes = build_lanes(compiled(network, torch.float32), queries, 2, 5)
        broken = margins(lanes, corners) < -lanes.slack
    for norm in (0.0, 1.0):
        fewer = restored(lanes, corners, norm, 64, Budget())
        assert ((margins(lanes, fewer) < -lanes.slack) == broken).all()
        assert torch.equal(fewer[~broken], corners[~broken])
        same = (fewer == corners) | (fewer == lanes.images)
        assert bool(same.all())
        before, after = (sizes(lanes, p - lanes.images, norm) for p in (corners, fewer))
        assert bool((after <= before).all())
    near = drawn(lanes, corners, 12)
    assert (margins(lanes, near) < -lanes.slack)[broken].all()
    before, after = (sizes(lanes, p - lanes.images, 2.0) for p in (corners, near))
    assert bool((after <= before + 1e-6).all())


def test_settled_points_are_the_nearest_of_all_and_count(rng: np.random.Generator) -> None:
    """From the nearest of many samples, to what enumeration finds; from others, never farther."""
    samples, labels = rng.random((4000, 4)).astype(np.float32), np.zeros(4000)
    while not (labels != labels[0]).sum() > 500:
        network = random_mlp(rng, [4, 4, 3, 3])
        labels = replayer(network).outputs_float32(samples).argmax(axis=1)
    query = DistanceQuery(network, samples[0], int(labels[0]))
    pieces, lost = pieces_of(query), samples[labels != labels[0]]
    grid = Grid.of((1, 2, 2))
    settling = Settling(seconds=math.inf)
    names = ["linf", "l2", "weighted-l1", "l1+tv", "l0"]
    for objective in (make_objective(name, samples[0], grid=grid) for name in names):
        wanted, least = replace(query, objective=objective), math.inf
        ranked = lost[np.argsort(objective.value(query.center, lost.astype(np.float64)))]
        optimum = least_distance(wanted, pieces)
        for point in ranked[:: len(ranked) // 3]:
            known = Nearest(wanted.distance(point), point)
            found = settling.run(wanted, known, Budget(), replayed(wanted))
            assert optimum - 1e-7 <= found.distance <= known.distance
            assert found.point is not None and found.distance == wanted.distance(found.point)
            assert replayed(wanted)(found.point, found.distance)
            least = min(least, found.distance)
        if not objective.integral:
            assert least <= optimum + 3e-6 * max(1.0, optimum)
        assert settling.run(wanted, known, Budget.of_seconds(0), replayed(wanted)) is known


def test_without_linear_regions_bisection_goes_towards_the_image(rng: np.random.Generator) -> None:
    network = dense(rng, [3, 8, 2], ops.Sigmoid())
    points = rng.random((200, 3)).astype(np.float32)
    labels = replayer(network).outputs_float64(points).argmax(axis=1)
    query = DistanceQuery(network, points[0], int(labels[0]))
    far = points[labels != labels[0]][0]
    known = Nearest(query.distance(far), far)
    found = Settling().run(query, known, Budget(), lambda p, _: _lost(query, p))
    assert found.point is not None and _lost(query, found.point)
    inside = query.center + (1 - 1e-3) * (found.point - query.center)
    assert found.distance < known.distance and not _lost(query, inside)


def _lost(query: DistanceQuery, point: np.ndarray) -> bool:
    outputs = replayer(query.network).outputs_float64(point[None].astype(np.float32))
    return int(outputs[0].argmax()) != query.label


@pytest.mark.parametrize("norm", [1.0, 2.0, math.inf])
def test_least_displacements_in_a_box(rng: np.random.Generator, norm: float) -> None:
    """Against programs; where the box ends first, everything moves to its end."""
    for _ in range(10):
        image, slope = rng.random(7), rng.normal(size=7) * (rng.random(7) < 0.8)
        room, steep = np.where(slope > 0, image, 1 - image), np.abs(slope)
        gap = float(rng.random() * 1.3 * (steep @ room))
        tensors = (torch.as_tensor(a).reshape(1, 1, -1) for a in (steep, room))
        least = least_in_box(norm, *tensors, torch.tensor([[gap]]).double())[0, 0].numpy()
        exact = _to_plane(slope, gap, image, norm)
        if math.isfinite(exact):
            assert steep @ least == pytest.approx(gap)
            assert np.linalg.norm(least, norm) == pytest.approx(exact, rel=1e-6, abs=1e-9)
        else:
            np.testing.assert_allclose(least[steep > 0], room[steep > 0])


def test_a_lost_label_is_at_distance_zero(rng: np.random.Generator) -> None:
    network = random_mlp(rng, [4, 6, 3])
    query = asked(network, rng.random(4), 2.0)
    wrong = DistanceQuery(network, query.image, (query.label + 1) % 3, query.objective)
    assert make_minimal("fmn", norm=2.0).run(wrong, Budget(), replayed(wrong)).distance == 0


def test_no_time_and_no_queries(rng: np.random.Generator) -> None:
    query = asked(random_mlp(rng, [4, 6, 3]), rng.random(4), 0.0)
    nothing = make_minimal("sigma-zero").run(query, Budget.of_seconds(0), replayed(query))
    assert not nothing.found
    assert nothing.distance == math.inf
    assert make_minimal("sigma-zero").run_all([], Budget()) == ()


def test_a_search_within_a_search_keeps_the_same_budget(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Budget] = []

    def inner(method: object, lanes: Lanes, budget: Budget, random: object) -> Best:
        given.append(budget)
        return Best.none(lanes)

    monkeypatch.setattr("closegap.attacks.minimal.sparsefool.descend", inner)
    budget = Budget.of_seconds(30)
    query = asked(random_mlp(rng, [4, 6, 3]), rng.random(4), 1.0)
    small("sparsefool", 1.0).run(query, budget, replayed(query))
    assert given and all(one is budget for one in given)


def test_misuse_is_named() -> None:
    with pytest.raises(OptionError, match="called 'magic'; there are sigma-zero"):
        make_minimal("magic")
    with pytest.raises(OptionError, match="cw minimises l2, not l1"):
        make_minimal("cw", norm=1.0)
    with pytest.raises(OptionError, match="no radius"):
        make_minimal("fmn", AttackOptions(step_size=0.1))


def test_the_calling_convention(rng: np.random.Generator) -> None:
    network = pictured(rng)
    images = torch.rand((2, *network.input_shape), generator=torch.Generator().manual_seed(5))
    labels = torch.as_tensor(replayer(network).outputs_float32(images.numpy()).argmax(axis=1))
    for attack in (
        cg.attacks.SigmaZero(network, steps=20),
        cg.attacks.FMN(network, norm="l2", steps=20),
        cg.attacks.EAD(network, steps=5),
        cg.attacks.SparseFool(network, steps=2),
        cg.attacks.DeepFool(network, norm=math.inf, steps=10),
        cg.attacks.CW(network, steps=5),
    ):
        found = attack(images, labels)
        assert found.shape == images.shape
        assert found.dtype == torch.float32
        after = replayer(network).outputs_float32(found.numpy()).argmax(axis=1)
        lost = torch.as_tensor(after) != labels
        assert lost.all()
    assert len(cg.attacks.CW(network)(images[:0], labels[:0])) == 0
    with pytest.raises(SpecError, match="no class to lose the label to"):
        DistanceQuery(random_mlp(np.random.default_rng(0), [3, 4, 1]), np.zeros(3, np.float32), 0)
    with pytest.raises(DataError, match="2 images came with 1 labels"):
        cg.attacks.FMN(network)(images, labels[:1])
    with pytest.raises(OptionError, match="norm must be"):
        cg.attacks.FMN(network, norm="magic")


def test_weights_side_by_side_hold_those_of_a_binary_search(rng: np.random.Generator) -> None:
    """Of lanes whose weights are enough at random: here and there, everywhere, nowhere."""
    chances = torch.tensor([0.0, 0.1, 0.3, 0.5, 0.9, 1.0]).repeat_interleave(20)
    numbers = torch.arange(len(chances))

    def enough(weights: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        draws = (weights.log2() * 64).round().double() * 12.9898 + rows[:, None] * 78.233
        return (draws.sin() * 43758.5453 % 1) < chances[rows][:, None]

    searches, tried, rounds = 9, [], 0
    found: Weighting | None = Weighting.of(1e-3, torch.zeros(len(chances)).double(), searches)
    while found is not None:
        last = found.seen(enough(found.weights, numbers).flatten())
        tried.append(last.weights)
        rounds, found = rounds + 1, last.next()
    assert rounds <= Weighting.rounds(searches) < searches
    every = torch.cat(tried, dim=1)
    for lane in numbers:
        weight, low, high = 1e-3, 0.0, math.inf
        for _ in range(searches):
            assert (every[lane] / weight - 1).abs().min() < 1e-6
            hit = bool(enough(torch.tensor([[weight]]).double(), lane[None]))
            low, high = (low, weight) if hit else (weight, high)
            weight = (low + high) / 2 if high < math.inf else 10 * weight
