"""Rounding witnesses to 8 bits: on the grid, replayed, repaired where the rounding loses them."""

from __future__ import annotations

import numpy as np
import torch

from closegap.attacks.gradient.options import AttackOptions
from closegap.attacks.minimal.attack import replayed
from closegap.attacks.minimal.grid import as_picture, to_grid
from closegap.attacks.minimal.registry import make_minimal
from closegap.core.budget import Budget
from closegap.runtime.cache import replayer
from closegap.specs.distance import DistanceQuery
from closegap.testing.networks import random_mlp


def test_rounded_witnesses_are_on_the_grid_and_replayed(rng: np.random.Generator) -> None:
    repaired = 0
    for _ in range(12):
        network = random_mlp(rng, [12, 8, 3])
        image = (rng.integers(0, 256, 12) / 255).astype(np.float32)
        label = int(replayer(network).outputs_float32(image[None])[0].argmax())
        query = DistanceQuery.of_norm(network, image, label, 2.0)
        found = make_minimal("deepfool").run(query, Budget(), replayed(query))
        if found.point is None:
            continue
        seen = to_grid(query, found.point)
        levels = seen.point.astype(np.float64) * 255
        np.testing.assert_allclose(levels, np.rint(levels), atol=1e-4)
        assert seen.broken == (
            replayer(network).outputs_float32(seen.point[None]).argmax() != label
        )
        assert seen.broken
        assert not torch.is_tensor(seen.point)
        repaired += seen.repaired
    assert repaired > 0


def test_pictures_of_images_between_the_levels_lose_the_label_too() -> None:
    """All six were lost while entries that had not changed were rounded and never turned."""
    for seed in (3, 11, 13, 15, 16, 32):
        rng = np.random.default_rng(seed)
        network = random_mlp(rng, [12, 8, 3])
        image = rng.random(12).astype(np.float32)
        label = int(replayer(network).outputs_float32(image[None])[0].argmax())
        query = DistanceQuery.of_norm(network, image, label, 1.0)
        attack = make_minimal("fmn", AttackOptions(steps=30), norm=1.0)
        point = attack.run(query, Budget(), replayed(query)).point
        assert point is not None
        levels, note = as_picture(query, point)
        assert levels is not None and levels.dtype == np.uint8 and "repaired" in note
        back = (levels / 255).astype(np.float32)
        assert replayer(network).outputs_float32(back[None])[0].argmax() != label
