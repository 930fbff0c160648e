"""Least values over balls cut by boxes: their rounding, and how near to the truth they are."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from closegap.bounds.regions import InputSet, least
from closegap.bounds.windows import Window


@pytest.mark.parametrize("norm", [1, 2])
def test_boxes_near_zero_at_the_rim_of_a_ball(norm: int, rng: np.random.Generator) -> None:
    row = torch.full((1, 1, 1), -1.0, dtype=torch.float64)
    for _ in range(500):
        center = -float(rng.uniform(0.1, 1.0))
        radius = -center + float(rng.uniform(1e-13, 1e-9))
        end = Fraction(center) + Fraction(radius)
        box = torch.tensor([[0.0]]), torch.tensor([[2e-9]])
        region = InputSet(
            box[0].double(),
            box[1].double(),
            torch.tensor([[center]], dtype=torch.float64),
            radius,
            norm,
        )
        value, rounding = least(region, row)
        assert Fraction(float(value)) - Fraction(float(rounding)) <= -end


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("size", "radius"), [(3, 0.7), (40, 0.5), (40, 2.5), (500, 1.5)])
def test_the_least_value_over_an_l2_ball_in_a_box_is_attained(
    size: int, radius: float, dtype: torch.dtype, rng: np.random.Generator
) -> None:
    center = np.clip(rng.uniform(-0.5, 1.3, size), 0.0, 1.0)
    rows = rng.standard_normal((20, size)) ** 3
    low, high = np.maximum(-center, -radius), np.minimum(1 - center, radius)
    region = InputSet(
        *(torch.as_tensor(center + end)[None].to(dtype) for end in (low, high)),
        torch.as_tensor(center)[None].to(dtype),
        radius,
        2,
    )
    value, rounding = least(region, torch.as_tensor(rows)[None].to(dtype))
    attained = np.full(len(rows), np.inf)
    for theta in np.geomspace(1e-6, 1e3, 4000):
        step = np.clip(-rows / theta, low, high)
        inside = np.linalg.norm(step, axis=1) <= radius
        attained = np.minimum(attained, np.where(inside, (rows * (center + step)).sum(1), np.inf))
    gap = attained - (value - rounding)[0].double().numpy()
    assert (gap >= 0).all()
    assert (gap <= 0.01 * (rows @ center - attained)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("size", "room"), [(3, 0.2), (40, 0.5), (40, 6.0), (200, 1.5), (40, 1e9)])
def test_the_least_value_of_changes_that_cost_so_much_is_attained(
    size: int, room: float, dtype: torch.dtype, rng: np.random.Generator
) -> None:
    """What a linear program finds is no less than the bound, and no more than rounding above it."""
    center = np.clip(rng.uniform(-0.5, 1.3, size), 0.0, 1.0)
    rows, prices = rng.standard_normal((8, size)) ** 3, rng.uniform(0.1, 2.0, (2, size))
    held = [torch.as_tensor(part).to(dtype) for part in (rows, center, prices)]
    exact = [part.double().numpy() for part in held]
    box = torch.zeros(1, size, dtype=dtype), torch.ones(1, size, dtype=dtype)
    region = InputSet(*box, held[1][None], room, 1, held[2])
    value, rounding = least(region, held[0][None])
    found = (value - rounding)[0].double().numpy()
    ends = [(0.0, float(up)) for up in np.concatenate([1 - exact[1], exact[1]])]
    for bound, row in zip(found, exact[0], strict=True):
        both = np.concatenate([row, -row])
        answer = linprog(both, exact[2].reshape(1, -1), [room], bounds=ends, method="highs")
        truth = answer.fun + row @ exact[1]
        size_of = np.abs(row).sum()
        assert bound <= truth + 1e-9 * size_of
        assert bound >= truth - (1e-3 if dtype == torch.float32 else 1e-8) * size_of


def test_a_window_of_priced_changes_sees_its_own_prices(rng: np.random.Generator) -> None:
    """Functions of few entries have the same least value in a crop of the region."""
    shape, window = (2, 5, 5), Window(1, 2, 3, 2)
    center = torch.as_tensor(rng.random((1, *shape)))
    prices = torch.as_tensor(rng.uniform(0.2, 2.0, (2, *shape)))
    whole = InputSet(torch.zeros_like(center), torch.ones_like(center), center, 0.8, 1, prices)
    part = torch.as_tensor(rng.standard_normal((1, 6, 2, 3, 2)))
    row = torch.zeros(1, 6, *shape, dtype=torch.float64)
    row[..., 1:4, 2:4] = part
    seen = whole.crop(window)
    assert torch.allclose(least(whole, row)[0], least(seen, part)[0], atol=1e-12)
    assert seen.to(torch.float32).prices is not None
    unpriced = replace(whole, prices=None)
    assert (least(whole, row)[0] != least(unpriced, row)[0]).all()
