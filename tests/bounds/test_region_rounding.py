"""The rounding allowance of balls covers boxes that are nearer to zero than the ball's center."""

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
