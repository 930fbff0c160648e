"""Least numbers of pixels by cutting up the ways to choose them: against enumeration."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from test_sparse_tree import BARE, GRID, asked, judged, solved

from closegap.attacks.sparse.incumbent import Incumbent
from closegap.attacks.sparse.options import OURS, PAPER, Branching
from closegap.attacks.sparse.pixel_bounds import PixelBounds, PixelSeen
from closegap.attacks.sparse.pixel_search import PixelSearch
from closegap.attacks.sparse.pixel_sets import FREE, HELD, PixelSets
from closegap.attacks.sparse.tree import SparseTree
from closegap.core.budget import Budget
from closegap.runtime.cache import replayer
from closegap.specs.distance import DistanceQuery
from closegap.specs.objectives import Grid, L0Distance
from closegap.testing.distances import least_distance
from closegap.testing.networks import random_conv, random_leaky, random_mlp


def pictured(seed: int, grid: Grid) -> DistanceQuery:
    """A network on a picture, and one of fifty images that is near to a tie."""
    rng = np.random.default_rng(seed)
    if grid.height == 4:
        network = random_conv(rng, channels=grid.channels, side=4)
    else:
        make = random_leaky if seed % 2 else random_mlp
        network = make(rng, [grid.size, 5, 4, 3])
    images = rng.random((50, *network.input_shape)).astype(np.float32)
    images[rng.random(images.shape) < 0.3] = 0.0
    outputs = np.sort(replayer(network).outputs_float32(images), axis=1)
    image = images[np.argsort(outputs[:, -1] - outputs[:, -2])[len(images) // 5]]
    label = int(replayer(network).outputs_float32(image[None])[0].argmax())
    return DistanceQuery(network, image, label, L0Distance(grid))


def sampled(sets: PixelSets, grid: Grid, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A point of each region, often at its corners."""
    low, high = sets.ends(grid, image)
    points = np.where(rng.random(low.shape) < 0.5, low, high)
    points = np.where(rng.random(low.shape) < 0.2, rng.uniform(low, high), points)
    kept = sets.places == FREE
    for group in range(sets.counts.shape[1]):
        for at in range(len(sets)):
            inside = np.flatnonzero(sets.places[at] == group)
            some = rng.permutation(inside)[: int(rng.integers(0, sets.counts[at, group] + 1))]
            kept[at, some] = True
    return np.where(kept[:, grid.pixel_of], points, image)


def holds(sets: PixelSets, grid: Grid, image: np.ndarray, point: np.ndarray) -> bool:
    """Whether some region holds a point."""
    low, high = sets.ends(grid, image)
    changed = (point != image)[grid.entries].any(axis=0).reshape(-1)
    inside = ((point >= low) & (point <= high)).all(axis=1)
    for group in range(sets.counts.shape[1]):
        count = (changed & (sets.places == group)).sum(axis=1)
        inside &= count <= sets.counts[:, group]
    return bool(inside.any())


GRIDS = [Grid(1, 3, 3), Grid(2, 1, 4), Grid(1, 1, 7), Grid(2, 4, 4)]


def test_there_may_be_more_groups_than_a_byte_can_number() -> None:
    grid, groups = Grid(1, 20, 20), 139
    places = np.full((1, grid.pixels), HELD)
    places[0, : 2 * groups] = np.repeat(np.arange(groups), 2)
    places[0, 2 * groups : 2 * groups + 2] = 0
    counts = np.ones((1, groups + 1), dtype=np.int64)
    counts[0, [0, -1]] = 2, 0
    free = np.full((1, groups + 1), -1)
    ends = np.zeros((*free.shape, 1)), np.ones((*free.shape, 1))
    sets = PixelSets(places, counts, free, *ends)
    parts = sets.halved(np.zeros((1, grid.pixels)), grid, local=True)
    both = parts.select((parts.counts > 0).all(axis=1))  # one pixel of either half
    assert len(both) == 1
    assert both.places.min() == HELD and both.places.max() == groups
    assert (both.places == groups).sum() == 2


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("local", [True, False])
def test_parts_hold_what_was_cut(grid: Grid, *, local: bool) -> None:
    rng = np.random.default_rng(0)
    image = rng.random(grid.size)
    for count in range(1, 5):
        sets = PixelSets.whole(grid, count)
        for _ in range(12):
            points = sampled(sets, grid, image, rng)
            steep = rng.random((len(sets), count, grid.channels))
            grouped = sets.grouped
            parts = []
            if grouped.any():
                gains = rng.random((int(grouped.sum()), grid.pixels))
                parts.append(sets.select(grouped).halved(gains, grid, local=local))
            if not grouped.all():
                parts.append(sets.select(~grouped).bisected(steep[~grouped]))
            cut = PixelSets.joined(parts)
            assert all(holds(cut, grid, image, point) for point in points)
            check(cut, count)
            sets = cut.select(rng.permutation(len(cut))[:20])


def check(sets: PixelSets, count: int) -> None:
    """What records promise of groups and free pixels."""
    groups = np.arange(sets.counts.shape[1])
    size = (sets.places[:, :, None] == groups).sum(axis=1)
    assert ((sets.counts < size) | (sets.counts == 0) & (size == 0)).all()
    free = (sets.places == FREE).sum(axis=1)
    assert (free == (sets.free >= 0).sum(axis=1)).all()
    assert (free + sets.counts.sum(axis=1) <= count).all()
    assert ((sets.places >= HELD) | (sets.places == FREE)).all()


@pytest.mark.parametrize("grid", GRIDS)
def test_bounds_are_below_what_is_attained(grid: Grid) -> None:
    rng = np.random.default_rng(1)
    for seed in range(3):
        query = pictured(seed, grid)
        bounds, image = PixelBounds(query, grid), query.center
        sets = PixelSets.whole(grid, 1 + seed)
        for _ in range(8):
            seen = bounds.bound(sets)
            values = bounds.margins(seen.points)
            worst = seen.lower[np.arange(len(sets)), seen.rows]
            assert (seen.lower <= values).all() and (worst == seen.lower.min(axis=1)).all()
            assert all(holds(sets, grid, image, point) for point in seen.points.astype(float))
            for _ in range(40):
                points = sampled(sets, grid, image, rng).astype(np.float32)
                assert (seen.lower <= bounds.margins(points) + 1e-12).all()
            grouped = sets.grouped
            if not grouped.any():
                break
            sets = sets.select(grouped)
            sets = sets.halved(bounds.gains(seen.select(grouped)), grid, local=not bounds.dense)
            sets = sets.select(rng.permutation(len(sets))[:16])


def test_one_linear_layer_is_bounded_as_it_is() -> None:
    """Without a hidden neuron open, bounds are the best of all choices, up to rounding."""
    grid, rng = Grid(2, 1, 5), np.random.default_rng(3)
    network = random_mlp(rng, [10, 3])
    image = rng.random(10).astype(np.float32)
    query = DistanceQuery(network, image, 0, L0Distance(grid))
    prop = query.within(0.0).prop
    for count in (1, 2, 3):
        seen = PixelBounds(query, grid).bound(PixelSets.whole(grid, count))
        ends = np.array(list(np.ndindex(*(2,) * (2 * count))), dtype=np.float32)
        least = np.full(len(prop.rows), np.inf)
        for some in combinations(range(5), count):
            entries = grid.entries.reshape(2, -1)[:, list(some)].reshape(-1)
            points = np.tile(image, (len(ends), 1))
            points[:, entries] = ends
            outputs = replayer(network).outputs_float64(points)
            least = np.minimum(least, (outputs @ prop.rows.T + prop.offsets).min(axis=0))
        assert seen.lower[0] == pytest.approx(least, abs=1e-9) and (seen.lower[0] <= least).all()


def searched(query: DistanceQuery, seconds: float = 60.0) -> tuple[Incumbent, PixelSearch]:
    best = Incumbent(query, lambda point, _: judged(query, point))
    assert not best.offer(query.image)
    search = PixelSearch(query, best)
    search.grow(Budget.of_seconds(seconds))
    return best, search


@pytest.mark.parametrize("seed", range(8))
def test_numbers_of_pixels_are_the_enumerated_ones(seed: int) -> None:
    query = replace(asked(seed), objective=L0Distance(Grid(1, 2, 2)))
    best, search = searched(query)
    assert best.lower == best.distance == least_distance(query)
    assert not search.paused and not search.stuck


@pytest.mark.parametrize("grid", [Grid(1, 3, 3), Grid(2, 1, 4)])
def test_pictures_have_the_number_that_phases_prove(grid: Grid) -> None:
    """Two trees that share nothing but the network: one splits pixels, one phases."""
    alone = replace(OURS, attack=None, pixels=False)
    for seed in range(4):
        query = pictured(seed, grid)
        budget = Budget.of_seconds(60.0)
        phases = SparseTree(alone).run(query, budget, lambda point, _, q=query: judged(q, point))
        best, _ = searched(query)
        assert best.lower == best.distance
        assert phases.lower <= best.distance and best.lower <= phases.upper


def test_pairs_and_triples_of_a_convolution() -> None:
    """No corner of any choice of fewer pixels than are proved to be needed is a counterexample."""
    grid, ruled_out = Grid(2, 4, 4), 0
    for seed in range(5):
        query = pictured(seed, grid)
        best, _ = searched(query, 4.0)
        assert best.lower <= best.distance
        ruled_out += int(min(best.lower, 4.0)) - 1
        for count in range(1, min(4, int(min(best.lower, 4.0)))):
            assert (corners(query, count) > 0).all()
    assert ruled_out >= 2


def corners(query: DistanceQuery, count: int) -> np.ndarray:
    """Margins where so many pixels of a convolution's picture are at corners, `[points, Q]`."""
    grid, prop = Grid(2, 4, 4), query.within(0.0).prop
    ends = np.array(list(np.ndindex(*(2,) * (2 * count))), dtype=np.float32)
    found = []
    for some in combinations(range(grid.pixels), count):
        points = np.tile(query.image.reshape(-1), (len(ends), 1))
        points[:, grid.entries.reshape(2, -1)[:, list(some)].reshape(-1)] = ends
        outputs = replayer(query.network).outputs_float64(points.reshape(-1, 2, 4, 4))
        found.append(outputs @ prop.rows.T + prop.offsets)
    return np.concatenate(found)


def test_a_proof_from_elsewhere_moves_the_count_on() -> None:
    query = pictured(0, Grid(1, 3, 3))
    best = Incumbent(query, lambda *_: False)
    search = PixelSearch(query, best)
    search.grow(Budget.of_seconds(0.0))
    assert search.nodes == 0 and search.paused
    best.prove(9.0)
    search.grow(Budget.of_seconds(0.3))
    assert search.nodes > 0 and best.lower in (9.0, math.inf)


@pytest.mark.parametrize("lower", [-1e-9, 0.0, 1e-9])
def test_only_margins_above_zero_close_regions(
    monkeypatch: pytest.MonkeyPatch, lower: float
) -> None:
    bound = PixelBounds.bound

    def moved(self: PixelBounds, sets: PixelSets) -> PixelSeen:
        seen = bound(self, sets)
        return replace(seen, lower=np.full_like(seen.lower, lower))

    monkeypatch.setattr(PixelBounds, "bound", moved)
    query = pictured(0, Grid(1, 3, 3))
    best = Incumbent(query, lambda *_: False)
    search = PixelSearch(query, best)
    search.grow(Budget.of_seconds(20.0))
    assert (best.lower == math.inf) == (lower > 0) and (best.lower > 0) == (lower > 0)
    assert search.stuck == (lower <= 0)  # the image itself is a region that cannot be cut


def test_pixel_counts_are_bracketed() -> None:
    query = replace(asked(1), objective=L0Distance(GRID))
    least, found = least_distance(query), solved(query, BARE)
    assert found.lower <= least <= found.upper
    assert found.accounting.balanced


def test_lower_ends_of_pixel_counts_are_whole() -> None:
    """Children's programs stop half a pixel below the best: what they prove is a whole one."""
    for seed in (0, 9):
        query = replace(asked(seed), objective=L0Distance(GRID))
        found = solved(query, replace(PAPER, branching=Branching.GAINS))
        assert found.closed and found.lower == found.upper == least_distance(query)
