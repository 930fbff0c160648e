"""Which entries of a flat input are one pixel: told by the network, asked for, or assumed."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from closegap.data import DataSet, fit_to_network
from closegap.frontend import loads
from closegap.graph.network import Network
from closegap.specs.layout import picture_of, told_layout, unsaid_layout
from closegap.specs.objectives import Grid
from closegap.testing.networks import onnx_model

SIZE = 3 * 8 * 8


def flat(rng: np.random.Generator) -> Network:
    """Dense, of a flat input."""
    weights = {"w": rng.normal(size=(2, SIZE)), "b": np.zeros(2)}
    nodes = [helper.make_node("Gemm", ["input", "w", "b"], ["output"], transB=1)]
    return loads(onnx_model(nodes, weights, ["N", SIZE]), "flat")


def turned(rng: np.random.Generator, *, channels_last: bool) -> Network:
    """A convolution of a flat input, whose pictures it makes itself."""
    shape = [-1, 8, 8, 3] if channels_last else [-1, 3, 8, 8]
    nodes = [helper.make_node("Reshape", ["input", "shape"], ["x"])]
    if channels_last:
        nodes.append(helper.make_node("Transpose", ["x"], ["y"], perm=[0, 3, 1, 2]))
    nodes += [
        helper.make_node("Conv", ["y" if channels_last else "x", "k"], ["z"]),
        helper.make_node("Flatten", ["z"], ["f"]),
        helper.make_node("Gemm", ["f", "w"], ["output"], transB=1),
    ]
    weights = {
        "shape": np.array(shape, dtype=np.int64),
        "k": rng.normal(size=(1, 3, 3, 3)), "w": rng.normal(size=(2, 36)),
    }  # fmt: skip
    return loads(onnx_model(nodes, weights, ["N", SIZE]), "turned")


def test_networks_that_make_pictures_tell_the_order(rng: np.random.Generator) -> None:
    first, last = (turned(rng, channels_last=order) for order in (False, True))
    assert (told_layout(first), told_layout(last)) == ("chw", "hwc")
    assert picture_of(first) == Grid(3, 8, 8) and picture_of(last) == Grid(3, 8, 8, True)
    assert unsaid_layout(first, None) == unsaid_layout(last, None) == ""


def test_what_nobody_told_is_said_to_be_taken_for_granted(rng: np.random.Generator) -> None:
    network = flat(rng)
    assert told_layout(network) is None
    assert picture_of(network) == picture_of(network, "chw") == Grid(3, 8, 8)
    assert picture_of(network, "hwc") == Grid(3, 8, 8, True)
    assert "8x8 pictures of 3 channels, one channel after the other" in unsaid_layout(network, None)
    assert unsaid_layout(network, "chw") == unsaid_layout(network, "hwc") == ""


def pictures(images: np.ndarray) -> DataSet:
    count = len(images)
    return DataSet(images, np.zeros(count, dtype=np.int64), np.arange(count), "some")


@pytest.mark.parametrize("channels_last", [False, True])
def test_images_come_in_the_order_of_flat_networks(
    rng: np.random.Generator, *, channels_last: bool
) -> None:
    images = rng.random((2, 3, 8, 8), dtype=np.float32)
    fitted = fit_to_network(pictures(images), (SIZE,), channels_last=channels_last).images
    grid = Grid(3, 8, 8, channels_last)
    np.testing.assert_array_equal(fitted[:, grid.entries], images)
    assert np.array_equal(fit_to_network(pictures(images), (SIZE,)).images, fitted) != channels_last


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("shape", [(3, 8, 8), (8, 8, 3)])
def test_flat_images_are_read_in_the_order_that_is_asked_for(
    rng: np.random.Generator, shape: tuple[int, ...], *, channels_last: bool
) -> None:
    images = rng.random((2, SIZE), dtype=np.float32)
    fitted = fit_to_network(pictures(images), shape, channels_last=channels_last).images
    seen, wanted = Grid.of(shape), Grid(3, 8, 8, channels_last)
    np.testing.assert_array_equal(fitted.reshape(2, -1)[:, seen.entries], images[:, wanted.entries])
