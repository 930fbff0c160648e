"""Pictures: layouts, brightness, signed differences, PNG files read back by another decoder."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from closegap.report.pictures import DIVERGING, brightness, difference, layout, shade
from closegap.report.png import data_uri, encode


@pytest.mark.parametrize("shape", [(1, 1, 1), (28, 28, 1), (32, 32, 3), (5, 9, 3)])
def test_png_read_back_by_pillow(shape: tuple[int, ...], rng: np.random.Generator) -> None:
    pixels = rng.integers(0, 256, shape, dtype=np.uint8)
    picture = Image.open(io.BytesIO(encode(pixels)))
    assert picture.mode == {1: "L", 3: "RGB"}[shape[2]]
    np.testing.assert_array_equal(np.asarray(picture).reshape(shape), pixels)


def test_data_uri_is_the_png() -> None:
    pixels = np.arange(16, dtype=np.uint8).reshape(4, 4, 1)
    start, body = data_uri(pixels).split(",")
    assert start == "data:image/png;base64"
    assert base64.b64decode(body) == encode(pixels)


@pytest.mark.parametrize("shape", [(2, 2, 2), (2, 2, 4), (0, 3, 1)])
def test_png_refuses_what_it_cannot_hold(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="1 or 3 channels"):
        encode(np.zeros(shape, dtype=np.uint8))


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((1, 28, 28), (28, 28, 1)),
        ((28, 28), (28, 28, 1)),
        ((28, 28, 1), (28, 28, 1)),
        ((3, 32, 32), (32, 32, 3)),
        ((32, 32, 3), (32, 32, 3)),
        ((784,), (28, 28, 1)),
        ((784, 1), (28, 28, 1)),
        ((64,), (8, 8, 1)),
        ((3072,), (32, 32, 3)),
        ((3, 7, 9), (7, 9, 3)),
    ],
)
def test_layout_of_pictures(shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    picture = layout(np.zeros(shape, dtype=np.float32))
    assert picture is not None
    assert picture.shape == expected


@pytest.mark.parametrize(
    "shape", [(5,), (1, 1, 5), (25,), (16,), (40,), (2, 2), (2, 8, 8), (1,), ()]
)
def test_layout_of_what_is_no_picture(shape: tuple[int, ...]) -> None:
    assert layout(np.zeros(shape, dtype=np.float32)) is None


def test_layout_keeps_rows_columns_and_channels_apart(rng: np.random.Generator) -> None:
    last = rng.random((6, 5, 3), dtype=np.float32)
    first = np.moveaxis(last, -1, 0)
    np.testing.assert_array_equal(layout(last), last)
    np.testing.assert_array_equal(layout(first), last)
    square = rng.random((8, 8, 3), dtype=np.float32)
    np.testing.assert_array_equal(layout(np.moveaxis(square, -1, 0).ravel()), square)


def test_brightness() -> None:
    assert brightness(np.array([0.2, 0.9])) == (0.0, 1.0)
    assert brightness(np.array([0.2]), np.array([-1.5, 2.0])) == (-1.5, 2.0)
    assert brightness(np.array([np.nan, np.inf])) == (0.0, 1.0)


def test_shade() -> None:
    picture = np.array([[[-1.0], [0.0], [1.0], [9.0], [np.nan]]])
    assert shade(picture, -1.0, 1.0).ravel().tolist() == [0, 128, 255, 255, 0]
    assert shade(np.full((1, 1, 1), 3.0), 3.0, 3.0).tolist() == [[[0]]]


def test_difference_is_signed_and_clipped_at_its_scale() -> None:
    clean = np.zeros((1, 5, 1))
    witness = np.array([[[-0.1], [-0.05], [0.0], [0.05], [0.7]]])
    assert [tuple(c) for c in difference(clean, witness, 0.1)[0].tolist()] == list(DIVERGING)


def test_difference_of_three_channels_shows_the_largest() -> None:
    clean = np.zeros((1, 1, 3))
    witness = np.array([[[0.04, -0.1, 0.09]]])
    assert tuple(difference(clean, witness, 0.1)[0, 0].tolist()) == DIVERGING[0]


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_difference_needs_a_scale(scale: float) -> None:
    with pytest.raises(ValueError, match="scale"):
        difference(np.zeros((4, 4, 1)), np.zeros((4, 4, 1)), scale)
