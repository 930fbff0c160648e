"""The judge of witnesses: shapes as the file wants them, and what counts as a witness."""

from __future__ import annotations

import math

import numpy as np
import pytest
from onnx import helper

from closegap.core.errors import ModelError
from closegap.frontend import loads
from closegap.runtime.replay import Replayer
from closegap.specs.property import robustness_property
from closegap.specs.query import Query, robustness
from closegap.specs.region import Box
from closegap.testing.networks import onnx_model, random_mlp


def _doubling(shape):
    """`y = 2 x` in a file whose input has this shape."""
    node = helper.make_node("Mul", ["input", "two"], ["output"])
    return loads(onnx_model([node], {"two": np.array(2.0)}, shape))


@pytest.mark.parametrize("shape", [["N", 3, 2], [1, 3, 2], [3, 2], [6], [1, 6, 1], ["N", 1]])
def test_batches_reach_the_file_in_its_own_shape(shape, rng):
    network = _doubling(shape)
    inputs = rng.normal(size=(4, *network.input_shape)).astype(np.float32)
    replayer = Replayer(network)
    expected = 2 * inputs.reshape(4, -1)
    assert np.array_equal(replayer.outputs_float32(inputs), expected)
    assert np.array_equal(replayer.outputs_float64(inputs), expected.astype(np.float64))


def test_a_witness_breaks_by_both_evaluations():
    network = _doubling(["N", 2])
    query = robustness(network, np.array([0.6, 0.5]), 0, eps=0.2)
    replayer = Replayer(network)
    breaking = replayer.witness(query, np.array([0.5, 0.625], dtype=np.float32))
    assert breaking is not None
    assert breaking.breaks
    assert breaking.margin == pytest.approx(-0.25)
    holding = replayer.witness(query, np.array([0.625, 0.5], dtype=np.float32))
    assert holding is not None
    assert not holding.breaks


def test_points_outside_the_region_are_no_witness():
    network = _doubling(["N", 2])
    query = robustness(network, np.array([0.6, 0.5]), 0, eps=0.2)
    replayer = Replayer(network)
    assert replayer.witness(query, np.array([0.1, 0.6], dtype=np.float32)) is None
    assert replayer.witness(query, np.array([np.nan, 0.6], dtype=np.float32)) is None


def test_outputs_that_are_not_finite_are_no_witness():
    network = _doubling(["N", 2])
    huge = 3e38
    query = Query(
        network,
        Box(np.full(2, -huge), np.full(2, huge)),
        robustness_property(0, 2),
    )
    assert Replayer(network).witness(query, np.full(2, 2.5e38, dtype=np.float32)) is None
    assert math.isfinite(huge)


def test_a_file_that_onnxruntime_cannot_load_is_named(rng):
    from dataclasses import replace

    network = replace(random_mlp(rng, [2, 2]), onnx_bytes=b"nonsense", source="some.onnx")
    with pytest.raises(ModelError, match=r"some\.onnx: onnxruntime cannot load it"):
        Replayer(network).outputs_float32(np.zeros((1, 2), dtype=np.float32))
