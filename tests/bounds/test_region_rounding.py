"""Least values over balls cut by boxes: their rounding, and how near to the truth they are."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch

from closegap.bounds.regions import InputSet, least


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
