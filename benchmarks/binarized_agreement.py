"""Do integers and floating point agree? On random inputs, and where sums tie with thresholds."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

import closegap as cg
from closegap.frontend.parse import without_final_softmax
from closegap.graph.binarized.first_layer import first_signs
from closegap.graph.binarized.forward import BinarizedForward
from closegap.graph.network import Network
from closegap.runtime.cache import binarized
from closegap.runtime.replay import Replayer

__all__ = ["Counted", "compare", "tied"]

_BLOCK = 500
#: Grey levels of a tied network's inputs, and the grid of its first thresholds: 1 / 16.
_GRID = 16


@dataclass(frozen=True)
class Counted:
    """Inputs, those with equal outputs in float64 and float32, and sums that meet a threshold.

    Attributes:
        inputs: how many.
        double: outputs of the IR in float64 equal the exact form's up to their last digits.
        single: the same of onnxruntime's, in float32.
        ties: sums behind the first layer that are equal to the integer threshold.
    """

    inputs: int
    double: int
    single: int
    ties: int


def compare(path: Path, inputs: int, *, raw: bool = False, ties: bool = False) -> Counted:
    """Evaluate one network in three ways.

    Args:
        path: of the network.
        inputs: how many; half of them whole grey levels.
        raw: its pixels run from 0 to 255, and all are whole.
        ties: move the thresholds first, see `tied`.

    Raises:
        ValueError: the network is not binarized; says why.
    """
    if ties:
        with tempfile.TemporaryDirectory() as folder:
            moved = Path(folder) / "tied.onnx"
            moved.write_bytes(tied(path))
            return compare(moved, inputs)
    network = cg.load(path)
    form = binarized(network)
    if isinstance(form, str):
        raise ValueError(f"{path}: {form}")
    replayer, counts = Replayer(_logits(network)), np.zeros(4, dtype=np.int64)
    for block in _inputs(network, inputs, raw):
        exact = form(block)
        allowed = 1e-4 * (1 + np.abs(exact).max(axis=1))
        for place, outputs in enumerate(
            (replayer.outputs_float64(block), replayer.outputs_float32(block)), start=1
        ):
            counts[place] += int((np.abs(outputs - exact).max(axis=1) <= allowed).sum())
        counts[0] += len(block)
        counts[3] += _met(form, block)
    return Counted(*counts.tolist())


def _logits(network: Network) -> Network:
    """The file without the Softmax that the network leaves out."""
    if not network.softmax_dropped:
        return network
    return replace(network, onnx_bytes=without_final_softmax(network.onnx_bytes))


def _inputs(network: Network, count: int, raw: bool) -> Iterator[NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    for begin in range(0, count, _BLOCK):
        values = rng.random((min(_BLOCK, count - begin), *network.input_shape))
        if raw:
            values = np.floor(256 * values)
        else:
            values[::2] = np.rint(_GRID * values[::2]) / _GRID
        yield values.astype(np.float32)


def _met(form: BinarizedForward, inputs: NDArray[np.float32]) -> int:
    """Sums of the integer layers that are at their thresholds; only there is the sign +1 by one."""
    bits, met = first_signs(form.network.first, inputs.reshape(len(inputs), -1).astype(float)), 0
    for layer in form.layers:
        met += int((layer.layer.thresholds.slack(layer.sums(bits)) == 0).sum())
        bits = layer.signs(bits)
    return met


def tied(path: Path) -> bytes:
    """The network with normalisations `+-(sum - mean)`, means where sums tie with them.

    Of the first layer the mean lies on the grid of the inputs, of the others it is an integer of
    the parity of the sums. Floating point loses nothing then, and normal values are often 0.

    Raises:
        ValueError: the file is not one of `examples/train_bnn.py`.
    """
    model = onnx.load_from_string(path.read_bytes())
    tensors = {t.name: t for t in model.graph.initializer}
    nodes = [n for n in model.graph.node if n.op_type == "BatchNormalization"]
    if not nodes or any(name not in tensors for node in nodes for name in node.input[1:]):
        raise ValueError(f"{path}: no batch normalisations as examples/train_bnn.py writes them")
    for place, node in enumerate(nodes[:-1]):
        factor, _, mean, _ = (numpy_helper.to_array(tensors[n]) for n in node.input[1:])
        weights = numpy_helper.to_array(tensors[f"weight{place}"])
        parity = len(weights) % 2
        moved = (
            2 * np.rint((mean - parity) / 2) + parity if place else np.rint(mean * _GRID) / _GRID
        )
        epsilon = next(a.f for a in node.attribute if a.name == "epsilon")
        # The square root of variance plus epsilon is 1 in float32 and float64.
        values = (np.sign(factor), np.zeros_like(mean), moved, np.full_like(mean, 1 - epsilon))
        for name, value in zip(node.input[1:], values, strict=True):
            fresh = numpy_helper.from_array(value.astype(np.float32), name)
            tensors[name].CopyFrom(fresh)
    return bytes(model.SerializeToString())
