"""Distances: values against closed forms, regions against samples, bounds against programs."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest

from closegap.core.errors import OptionError
from closegap.specs.objectives import (
    OBJECTIVES,
    Grid,
    L0Distance,
    L1Distance,
    L1TvDistance,
    L2Distance,
    LinfDistance,
    Objective,
    ObjectiveOptions,
    VariationOf,
    make_objective,
    norm_objective,
    priced,
    visibility_weights,
)
from closegap.specs.objectives.separable import HalfBox
from closegap.specs.region import Ball, bounding_box, contains
from closegap.testing.distances import nearest_in
from closegap.testing.enumeration import Region

GRID = Grid(1, 3, 3)
COLOUR = Grid(3, 2, 2)
TV = [
    L1TvDistance(grid, kappa, of, isotropic)
    for grid in (GRID, COLOUR)
    for kappa in (0.1, 0.4)
    for of in ("image", "difference")
    for isotropic in (False, True)
]


def objectives(rng: np.random.Generator) -> list[tuple[int, Objective]]:
    """Every distance with the number of its inputs."""
    plain = [LinfDistance(), L2Distance(), L1Distance(), L0Distance(GRID)]
    weighted = L1Distance(rng.uniform(0.5, 5, 9))
    colour = [(12, L0Distance(COLOUR)), (12, L0Distance(Grid(3, 2, 2, channels_last=True)))]
    return [(9, o) for o in [*plain, weighted]] + colour + [(o.grid.size, o) for o in TV]


def picture(rng: np.random.Generator, size: int) -> np.ndarray:
    """With equal neighbours and pixels at both ends of the range."""
    return np.clip(np.round(rng.uniform(-0.2, 1.2, size) * 4) / 4, 0, 1)


def variation(grid: Grid, flat: np.ndarray, *, isotropic: bool) -> float:
    """Total variation, pixel by pixel."""
    total = 0.0
    at = flat[grid.entries]
    for c, i, j in itertools.product(range(grid.channels), range(grid.height), range(grid.width)):
        right = at[c, i, j + 1] - at[c, i, j] if j + 1 < grid.width else 0.0
        below = at[c, i + 1, j] - at[c, i, j] if i + 1 < grid.height else 0.0
        total += math.hypot(right, below) if isotropic else abs(right) + abs(below)
    return total


@pytest.mark.parametrize("tv", TV, ids=str)
def test_l1_tv_is_what_its_name_says(rng: np.random.Generator, tv: L1TvDistance) -> None:
    for _ in range(5):
        image, point = picture(rng, tv.grid.size), rng.random(tv.grid.size)
        if tv.of == "image":
            grown = variation(tv.grid, point, isotropic=tv.isotropic)
            grown -= variation(tv.grid, image, isotropic=tv.isotropic)
        else:
            grown = variation(tv.grid, point - image, isotropic=tv.isotropic)
        wanted = np.abs(point - image).sum() + tv.kappa * grown
        assert tv.value(image, point) == pytest.approx(wanted)


def test_norms_weights_and_pixels(rng: np.random.Generator) -> None:
    image, points = rng.random(12), rng.random((5, 12))
    points[:, :6] = image[:6]
    change = points - image
    weights = rng.uniform(1, 2, 12)
    for norm in (1, 2, math.inf):
        found = norm_objective(norm).value(image, points)
        assert found == pytest.approx(np.linalg.norm(change, norm, axis=1))
    assert L1Distance(weights).value(image, points) == pytest.approx(np.abs(change) @ weights)
    # [3, 2, 2]: entries 6..11 are two pixels of the second channel and all of the third.
    assert (L0Distance(COLOUR).value(image, points) == 4).all()
    # [2, 2, 3]: they are the last two pixels.
    assert (L0Distance(Grid(3, 2, 2, channels_last=True)).value(image, points) == 2).all()


def test_values_are_zero_at_the_image_and_attained_is_no_less(rng: np.random.Generator) -> None:
    for size, objective in objectives(rng):
        image = picture(rng, size)
        assert objective.value(image, image) == 0
        assert objective.attained(image, image) == 0
        for _ in range(5):
            point = np.where(rng.random(size) < 0.5, image, rng.random(size))
            attained, value = objective.attained(image, point), float(objective.value(image, point))
            assert value - 1e-15 <= attained <= value + 1e-12


@pytest.mark.parametrize("of", ["image", "difference"])
def test_attained_is_no_less_in_exact_arithmetic(rng: np.random.Generator, of: VariationOf) -> None:
    """Beside a white pixel float64 loses how far an almost black one is moved."""

    def exact(flat: list[Fraction]) -> Fraction:
        return sum((abs(flat[i] - flat[j]) for i, j in GRID.edges.tolist()), Fraction(0))

    levels = np.array([0, 1, 0.5, 2.0**-60, 2.0**-54, 2.0**-30, 1 - 2.0**-24])
    for kappa in (0.2, 1.0, 5.0):
        tv = L1TvDistance(GRID, kappa, of)
        for _ in range(100):
            image = rng.choice(levels, 9)
            point = np.where(rng.random(9) < 0.5, image, rng.choice(levels, 9))
            before, after = ([Fraction(x) for x in flat.tolist()] for flat in (image, point))
            change = [b - a for a, b in zip(before, after, strict=True)]
            brought = exact(change) if of == "difference" else exact(after) - exact(before)
            value = sum(map(abs, change)) + Fraction(kappa) * brought
            assert Fraction(tv.attained(image, point)) >= value


def test_regions_hold_everything_near(rng: np.random.Generator) -> None:
    for size, objective in objectives(rng):
        image = picture(rng, size)
        change = rng.uniform(-1, 1, (2000, size)) * rng.random((2000, 1)) ** 3
        change *= rng.random((2000, size)) < rng.random((2000, 1))
        points = np.clip(image + change, 0, 1)
        values = objective.value(image, points)
        for limit in (0.0, 0.3, 1.0, 2.5):
            region = objective.region(image, limit, (1, size))
            box = bounding_box(region)
            near = points[values <= limit]
            assert (near >= box.lower.reshape(-1)).all()
            assert (near <= box.upper.reshape(-1)).all()
            if isinstance(region, Ball):
                length = np.linalg.norm(near - image, region.norm, axis=1)
                assert (length <= region.radius * (1 + 1e-12)).all()


def test_no_corner_is_farther_than_the_greatest_value(rng: np.random.Generator) -> None:
    """All values are convex or count pixels, so that a corner is the farthest point."""
    for size, objective in objectives(rng):
        corners = np.array(list(itertools.product((0.0, 1.0), repeat=size)))
        for image in (picture(rng, size), rng.random(size), np.zeros(size), np.full(size, 0.5)):
            most = float(objective.value(image, corners).max())
            greatest = objective.greatest(image)
            farthest = corners[int(objective.value(image, corners).argmax())]
            assert objective.attained(image, farthest) <= greatest
            if objective.name != "l1+tv":
                assert greatest == pytest.approx(most)


def test_pixels_that_go_all_the_way_are_in_their_region() -> None:
    for grid in (GRID, COLOUR):
        image, shape = np.zeros(grid.size), (grid.channels, grid.height, grid.width)
        objective = L0Distance(grid)
        for count in range(1, grid.pixels):
            point = np.where(np.isin(grid.pixel_of, np.arange(count)), 1.0, 0.0)
            region = objective.region(image, objective.attained(image, point), shape)
            assert contains(region, point.astype(np.float32).reshape(shape))


def test_small_l1_tv_regions_are_small(rng: np.random.Generator) -> None:
    """In a flat picture no change wins total variation back, so the ball is the l1 ball itself."""
    flat, limit = np.full(9, 0.5), 0.2
    region = L1TvDistance(GRID, 0.4).region(flat, limit, (3, 3))
    assert isinstance(region, Ball)
    assert region.radius == pytest.approx(limit)
    rough = L1TvDistance(GRID, 0.1).region(picture(rng, 9), limit, (3, 3))
    assert isinstance(rough, Ball)
    assert limit <= rough.radius <= limit / 0.6 * (1 + 1e-9)


def asked(rng: np.random.Generator, image: np.ndarray, *, free: bool) -> tuple:
    """A row and a box: the whole [0, 1]^D, or one that may exclude the image's entries."""
    gain = rng.normal(size=image.size) * (rng.random(image.size) < 0.8)
    lower, upper = np.zeros(image.size), np.ones(image.size)
    if not free:
        ends = np.sort(rng.random((2, image.size)), axis=0)
        kept = rng.random(image.size) < 0.6
        lower, upper = np.where(kept, 0.0, ends[0]), np.where(kept, 1.0, ends[1])
    most = float((gain * (np.where(gain > 0, upper, lower) - image)).sum())
    return gain, float(most * rng.uniform(-0.3, 1.1)), lower, upper


@pytest.mark.parametrize("free", [True, False])
def test_lower_bounds_are_below_the_optimum_and_tight_for_norms(
    rng: np.random.Generator, *, free: bool
) -> None:
    weighted = L1Distance(rng.uniform(0.5, 5, 9))
    exact: list[Objective] = [LinfDistance(), L1Distance(), weighted, L1TvDistance(GRID, 0.0)]
    for objective in [*exact, *TV]:
        size = objective.grid.size if isinstance(objective, L1TvDistance) else 9
        for _ in range(3 if objective in exact else 1):
            image = picture(rng, size)
            gain, need, lower, upper = asked(rng, image, free=free)
            half = Region(lower, upper, -gain[None], np.array([-need - gain @ image]))
            best = nearest_in(objective, image, half)
            (found,) = objective.least(image, gain[None], np.array([-need]), lower, upper)
            assert found <= best + 1e-9
            if objective in exact:
                assert found == pytest.approx(best, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("free", [True, False])
@pytest.mark.parametrize("tv", TV, ids=str)
def test_any_flows_bound_and_some_of_them_better(
    rng: np.random.Generator, tv: L1TvDistance, *, free: bool
) -> None:
    image = picture(rng, tv.grid.size)
    gain, need, lower, upper = asked(rng, image, free=free)
    best = nearest_in(
        tv, image, Region(lower, upper, -gain[None], np.array([-need - gain @ image]))
    )
    half = HalfBox.of(image, gain[None], np.array([-need]), lower, upper)
    variation = tv.variation_around(image)
    flows = np.vstack([variation.start(), rng.uniform(-2, 2, size=(200, variation.flows))])
    found = np.array([tv.least_along(half, variation, flow[None])[0] for flow in flows])
    assert (found <= best + 1e-9).all()
    step = rng.uniform(lower, upper, size=(500, image.size)) - image
    tilts, constants = variation.tilts(flows[:5], np.ones(image.size))
    linear = np.abs(step).sum(axis=1) + tilts @ step.T + constants[:, None]
    assert (linear <= tv.value(image, image + step) + 1e-12).all()


@pytest.mark.parametrize("free", [True, False])
def test_least_pixels_are_those_of_the_best_subset(rng: np.random.Generator, *, free: bool) -> None:
    for grid, _ in itertools.product((Grid(1, 2, 3), COLOUR), range(4)):
        image = picture(rng, grid.size)
        gain, need, lower, upper = asked(rng, image, free=free)
        half = Region(lower, upper, -gain[None], np.array([-need - gain @ image]))
        (found,) = L0Distance(grid).least(image, gain[None], np.array([-need]), lower, upper)
        assert found == nearest_in(L0Distance(grid), image, half)


@pytest.mark.parametrize("free", [True, False])
def test_least_euclidean_lengths_satisfy_the_optimality_conditions(
    rng: np.random.Generator, *, free: bool
) -> None:
    """The optimum is `clip(m gain)` for the m that just meets the need: found by bisection."""
    for _ in range(20):
        image = picture(rng, 9)
        gain, need, lower, upper = asked(rng, image, free=free)
        low, high = lower - image, upper - image
        (found,) = L2Distance().least(image, gain[None], np.array([-need]), lower, upper)
        if (gain * np.where(gain > 0, high, low)).sum() < need:
            assert found == math.inf
            continue
        small, large = 0.0, 1e9
        for _ in range(200):
            middle = (small + large) / 2
            short = gain @ np.clip(middle * gain, low, high) < need
            small, large = (middle, large) if short else (small, middle)
        best = float(np.linalg.norm(np.clip((small if small < 1e-8 else large) * gain, low, high)))
        assert found <= best + 1e-12
        assert found == pytest.approx(best, rel=1e-6, abs=1e-7)


def test_bounds_hold_for_every_sample_and_many_rows_at_once(rng: np.random.Generator) -> None:
    for size, objective in objectives(rng):
        image = picture(rng, size)
        gains, offsets = rng.normal(size=(6, size)), -rng.uniform(-1, 2, 6)
        lower, upper = np.zeros(size), np.ones(size)
        bounds = objective.least(image, gains, offsets, lower, upper)
        keep = rng.random((1000, size)) < rng.random((1000, 1))
        points = np.where(keep, image, rng.random((1000, size)))
        values = objective.value(image, points)
        met = (points - image) @ gains.T + offsets >= 0
        for row in range(6):
            assert bounds[row] <= values[met[:, row]].min(initial=math.inf) + 1e-12
            alone = objective.least(
                image, gains[row : row + 1], offsets[row : row + 1], lower, upper
            )
            assert alone == pytest.approx(bounds[row : row + 1], rel=1e-12, abs=1e-12)


def test_rows_that_are_not_finite_bound_nothing(rng: np.random.Generator) -> None:
    for size, objective in objectives(rng):
        image = picture(rng, size)
        gains = np.ones((3, size))
        gains[0, 0], gains[1, 1] = np.nan, np.inf
        offsets = np.array([-1.0, -1.0, np.nan])
        floor = objective.least(image, np.zeros((1, size)), np.zeros(1), 0 * image, 1 + 0 * image)
        found = objective.least(image, gains, offsets, 0 * image, 1 + 0 * image)
        assert found == pytest.approx(np.repeat(floor, 3))


def test_pictures_of_shapes() -> None:
    assert Grid.of((1, 28, 28)) == Grid.of((784,)) == Grid.of((1, 1, 784)) == Grid(1, 28, 28)
    assert Grid.of((3, 32, 32)) == Grid.of((3072,)) == Grid.of((1, 3, 32, 32)) == Grid(3, 32, 32)
    assert Grid.of((32, 32, 3)) == Grid(3, 32, 32, channels_last=True)
    assert Grid.of((5,)) == Grid(1, 1, 5)
    assert Grid.of((4, 6)) == Grid(1, 4, 6)
    assert sorted(COLOUR.edges[:, 0]) == sorted([0, 2, 4, 6, 8, 10, 0, 1, 4, 5, 8, 9])


def test_flat_zones_weigh_most() -> None:
    image = np.zeros(36)
    image[3::6] = 1.0
    weights = visibility_weights(image, Grid(1, 6, 6)).reshape(6, 6)
    assert weights[:, 0] == pytest.approx(1 / 0.05)
    assert weights[:, 3] == pytest.approx(1 / (math.sqrt(2) / 3 + 0.05))


def test_names_are_checked(rng: np.random.Generator) -> None:
    image = rng.random((1, 3, 3))
    for name in OBJECTIVES:
        assert make_objective(name, image).name == name
    options = ObjectiveOptions(0.3, "difference", isotropic=True)
    assert make_objective("l1+tv", image, options=options) == L1TvDistance(
        GRID, 0.3, "difference", isotropic=True
    )
    with pytest.raises(OptionError, match="no distance is called 'l3'"):
        make_objective("l3", image)
    for kappa in (-1.0, 1e60, np.nan):
        with pytest.raises(OptionError, match="kappa"):
            L1TvDistance(GRID, kappa)
    with pytest.raises(OptionError, match="norm must be"):
        norm_objective(3)


@pytest.mark.parametrize("tv", TV, ids=str)
def test_changes_of_a_value_are_within_their_prices(
    rng: np.random.Generator, tv: L1TvDistance
) -> None:
    """And the dearest of them nearly spend the room: the prices say what the distance says."""
    image, size = picture(rng, tv.size), tv.size
    image[rng.random(size) < 0.2] = 0.0
    fullest = 0.0
    for limit in (0.05, 0.4, 2.0):
        prices = priced(tv, image, limit)
        assert prices is not None and (prices.up > 0).all() and (prices.down > 0).all()
        steps = rng.normal(size=(4000, size)) * rng.random((4000, 1)) ** 3
        steps[:2000] *= rng.random((2000, size)) < 0.3
        steps = np.clip(image + steps, 0, 1) - image
        steps = steps[tv.value(image, image + steps) <= limit]
        spent = np.maximum(steps, 0) @ prices.up + np.maximum(-steps, 0) @ prices.down
        assert (spent <= prices.room + 1e-12).all()
        fullest = max(fullest, float(spent.max(initial=0.0) / prices.room))
    assert fullest > 0.5
    assert priced(L1Distance(), image, 1.0) is None and priced(tv, image, math.inf) is None
