"""Balls and boxes, and which float32 points lie in them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from closegap.core.errors import OptionError, SpecError
from closegap.specs.query import robustness
from closegap.specs.region import Ball, Box, bounding_box, contains, lp_ball
from closegap.testing.networks import random_conv, random_mlp


class TestBox:
    @pytest.mark.parametrize(
        ("lower", "upper", "message"),
        [
            ([0.0, 1.0], [1.0, 0.5], "lower 1.0 > upper 0.5 at input 1"),
            ([0.0], [1.0, 2.0], "differ in shape"),
            ([0.0], [math.nan], "must be finite"),
            ([-math.inf], [0.0], "must be finite"),
        ],
    )
    def test_refused(self, lower: list[float], upper: list[float], message: str) -> None:
        with pytest.raises(SpecError, match=message):
            Box(np.array(lower), np.array(upper))


class TestBall:
    def test_linf_is_a_box_cut_to_the_pixels(self) -> None:
        box = lp_ball(np.array([0.125, 0.5, 0.9375]), 0.25)
        assert isinstance(box, Box)
        np.testing.assert_array_equal(box.lower, [0, 0.25, 0.6875])
        np.testing.assert_array_equal(box.upper, [0.375, 0.75, 1])

    def test_without_limits(self) -> None:
        box = lp_ball(np.array([0.0, 7.0]), 0.5, low=None, high=None)
        np.testing.assert_array_equal(bounding_box(box).lower, [-0.5, 6.5])

    def test_radius_zero_is_the_point_itself_in_every_norm(self) -> None:
        image = np.array([0.1, 0.7], np.float32)
        for norm in (1, 2, math.inf):
            box = lp_ball(image, 0, norm=norm)
            assert isinstance(box, Box)
            np.testing.assert_array_equal(box.lower, image)
            np.testing.assert_array_equal(box.upper, image)
            assert contains(box, image)

    @pytest.mark.parametrize("radius", [-0.1, math.nan, math.inf, -math.inf])
    def test_bad_radius(self, radius: float) -> None:
        with pytest.raises(OptionError, match="radius must be finite and not negative"):
            lp_ball([0.5], radius)

    @pytest.mark.parametrize("norm", [0, 3, -1, math.nan])
    def test_bad_norm(self, norm: float) -> None:
        with pytest.raises(OptionError, match="norm must be 1, 2 or inf"):
            lp_ball([0.5], 0.1, norm=norm)

    def test_bad_center(self) -> None:
        with pytest.raises(SpecError, match=r"leaves \[0.0, 1.0\]"):
            lp_ball([0.5, 1.5], 0.1)
        with pytest.raises(SpecError, match="not finite"):
            lp_ball([0.5, math.nan], 0.1)


class TestContains:
    @settings(max_examples=200, deadline=None, derandomize=True)
    @given(
        center=st.floats(0, 1),
        radius=st.one_of(st.just(0.0), st.floats(0, 1e-6), st.floats(0, 1)),
    )
    def test_linf_edges(self, center: float, radius: float) -> None:
        """The last float32 number inside is in, the next one is out; or only the nearest one is."""
        region = lp_ball([center], radius)
        low, high = max(center - radius, 0.0), min(center + radius, 1.0)
        ends = np.array([low, high, center]).astype(np.float32)
        around = {
            float(x)
            for step in (0.0, -9.0, 9.0)
            for x in (ends if step == 0 else np.nextafter(ends, np.float32(step)))
        }
        accepted = {x for x in around if contains(region, np.array([x], np.float32))}
        inside = {x for x in around if low <= x <= high}
        assert accepted == (inside or {float(np.float32((low + high) / 2))})
        box = bounding_box(region)
        assert all(box.lower[0] <= x <= box.upper[0] for x in accepted)

    @pytest.mark.parametrize(("norm", "length"), [(1, 0.75), (2, math.sqrt(0.3125))])
    def test_lp_distance_has_no_tolerance(self, norm: int, length: float) -> None:
        center, point = np.array([0.25, 0.5, 0.5]), np.array([0.75, 0.25, 0.5], np.float32)
        assert contains(lp_ball(center, length * (1 + 1e-12), norm=norm), point)
        assert not contains(lp_ball(center, length * (1 - 1e-12), norm=norm), point)

    def test_the_ball_is_cut_by_its_box(self) -> None:
        ball = lp_ball(np.array([0.9, 0.5]), 0.5, norm=2)
        assert isinstance(ball, Ball)
        assert contains(ball, np.array([1.0, 0.5], np.float32))
        assert not contains(ball, np.array([1.0001, 0.5], np.float32))

    def test_nan_is_outside(self) -> None:
        assert not contains(lp_ball([0.5], 0.5), np.array([np.nan], np.float32))

    def test_a_point_of_another_shape_is_a_mistake(self) -> None:
        with pytest.raises(SpecError, match=r"shape \(1,\) in a region of shape \(2,\)"):
            contains(lp_ball([0.5, 0.5], 0.5), np.array([0.5], np.float32))


class TestRobustness:
    def test_axes_of_length_one_and_flat_images(self, rng: np.random.Generator) -> None:
        network = random_conv(rng, channels=2, side=6)
        image = rng.random((2, 6, 6), dtype=np.float32)
        for given_ in (image, image[None], image.reshape(-1)):
            query = robustness(network, given_, 1, 0.0)
            np.testing.assert_array_equal(bounding_box(query.region).lower, image)

    def test_layouts_are_never_mixed_up(self, rng: np.random.Generator) -> None:
        network = random_conv(rng, channels=2, side=6)
        image = rng.random((6, 6, 2), dtype=np.float32)
        with pytest.raises(SpecError, match=r"shape \(6, 6, 2\) does not fit .* \(2, 6, 6\)"):
            robustness(network, image, 1, 0.1)

    def test_wrong_size_label_and_target(self, rng: np.random.Generator) -> None:
        network = random_mlp(rng, (4, 5, 3))
        image = rng.random(4, dtype=np.float32)
        with pytest.raises(SpecError, match="does not fit"):
            robustness(network, image[:3], 0, 0.1)
        with pytest.raises(SpecError, match=r"label 3 is not a class: .* outputs 0..2"):
            robustness(network, image, 3, 0.1)
        with pytest.raises(SpecError, match="target 1 is not another class than 1"):
            robustness(network, image, 1, 0.1, target=1)
        with pytest.raises(SpecError, match="label -1"):
            robustness(network, image, -1, 0.1)
