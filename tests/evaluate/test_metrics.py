"""Metrics of changed pictures against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest

from closegap.core.errors import DataError
from closegap.evaluate.metrics import on_grid, picture_metrics


def test_an_unchanged_picture(rng: np.random.Generator) -> None:
    picture = rng.random((3, 9, 9))
    seen = picture_metrics(picture, picture)
    assert (seen.pixels, seen.sparsity, seen.invisibility) == (0, 100.0, 100.0)
    assert seen.psnr == math.inf
    assert seen.ssim == pytest.approx(1.0)


def test_changes_below_half_a_level_vanish() -> None:
    picture = np.full((1, 8, 8), 100 / 255)
    assert picture_metrics(picture, picture + 0.4 / 255).pixels == 0
    assert picture_metrics(picture, picture + 0.6 / 255).pixels == 64


def test_closed_forms() -> None:
    clean = np.zeros((3, 10, 10))
    changed = clean.copy()
    changed[0, 5, 5], changed[1, 5, 5] = 1.0, 10 / 255
    seen = picture_metrics(clean, changed)
    assert seen.pixels == 1
    assert seen.sparsity == pytest.approx(100 * (1 - 2 / 300))
    assert seen.psnr == pytest.approx(-10 * math.log10((1 + (10 / 255) ** 2) / 300))
    assert seen.invisibility == 50.0  # 10/255 is below 0.05 on a flat background, 1 is not
    assert seen.ssim < 1


def test_a_change_in_texture_is_less_visible(rng: np.random.Generator) -> None:
    flat, texture = np.full((1, 12, 12), 0.5), rng.integers(0, 2, (1, 12, 12)).astype(float)
    seen = [picture_metrics(p, on_grid(np.clip(p + 0.2, 0, 1))) for p in (flat, texture)]
    assert seen[0].invisibility == 0
    assert seen[1].invisibility > 90


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("side", "window"), [(3, 3), (4, 3), (6, 5), (7, 7), (9, 7)])
def test_similarity_is_of_rounded_pictures_over_windows_that_fit(
    rng: np.random.Generator, channels: int, side: int, window: int
) -> None:
    """Against the definition: means, variances and covariances window by window."""
    clean, changed = rng.random((2, channels, side, side))
    seen = picture_metrics(clean, changed).ssim
    before, after = (np.rint(255 * p) / 255 for p in (clean, changed))
    values = []
    for one, other in zip(before, after, strict=True):
        for i in range(side - window + 1):
            for j in range(side - window + 1):
                x, y = (a[i : i + window, j : j + window].reshape(-1) for a in (one, other))
                spread = np.cov(x, y)
                first = (2 * x.mean() * y.mean() + 1e-4) / (x.mean() ** 2 + y.mean() ** 2 + 1e-4)
                second = (2 * spread[0, 1] + 9e-4) / (spread[0, 0] + spread[1, 1] + 9e-4)
                values.append(first * second)
    assert seen == pytest.approx(np.mean(values))


def test_the_smallest_pictures_have_no_similarity_and_shapes_must_agree() -> None:
    small = np.zeros((1, 2, 3))
    assert math.isnan(picture_metrics(small, small).ssim)
    with pytest.raises(DataError, match="two pictures"):
        picture_metrics(small, np.zeros((1, 3, 4)))
