"""Do integers and floating point agree? On random inputs, and where sums tie with thresholds."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

import closegap as cg
from binarized_records import Agreement
from closegap.frontend.parse import without_final_softmax
from closegap.graph.binarized.forward import BinarizedForward
from closegap.graph.network import Network
from closegap.runtime.cache import binarized
from closegap.runtime.replay import Replayer

__all__ = ["Comparison", "tied"]

_BLOCK = 40
#: Grey levels of a tied network's inputs, and the grid of its first thresholds: 1 / 16.
_GRID = 16


class Comparison:
    """One network evaluated in three ways.

    Args:
        path: of the network.
        raw: its pixels run from 0 to 255, and inputs are whole; of others half are.
        ties: move the thresholds first, see `tied`.

    Raises:
        ValueError: the network is not binarized; says why.
    """

    def __init__(self, path: Path, *, raw: bool = False, ties: bool = False) -> None:
        self._raw = raw
        with tempfile.TemporaryDirectory() as folder:
            moved = Path(folder) / "tied.onnx"
            if ties:
                moved.write_bytes(tied(path))
            self._network = cg.load(moved if ties else path)
        form = binarized(self._network)
        if isinstance(form, str):
            raise ValueError(f"{path}: {form}")
        self._form, self._replayer = form, Replayer(_logits(self._network))

    def count(self, asked: Agreement) -> Agreement:
        """Answer one question; `asked` says which, its results are empty."""
        began, double, single, ties = time.process_time(), 0, 0, 0
        for block in _inputs(self._network.input_shape, asked, raw=self._raw):
            exact, met = _outputs(self._form, block)
            allowed = 1e-4 * (1 + np.abs(exact).max(axis=1))
            double += _equal(self._replayer.outputs_float64(block), exact, allowed)
            single += _equal(self._replayer.outputs_float32(block), exact, allowed)
            ties += met
        seconds = time.process_time() - began
        return replace(asked, double=double, single=single, ties=ties, seconds=seconds)


def _equal(
    outputs: NDArray[np.floating[Any]], exact: NDArray[np.float64], allowed: NDArray[np.float64]
) -> int:
    return int((np.abs(outputs - exact).max(axis=1) <= allowed).sum())


def _logits(network: Network) -> Network:
    """The file without the Softmax that the network leaves out."""
    if not network.softmax_dropped:
        return network
    return replace(network, onnx_bytes=without_final_softmax(network.onnx_bytes))


def _inputs(
    shape: tuple[int, ...], asked: Agreement, *, raw: bool
) -> Iterator[NDArray[np.float32]]:
    """Blocks of inputs; each has random numbers of its own, so that any may be asked for."""
    for begin in range(asked.first, asked.first + asked.inputs, _BLOCK):
        rng = np.random.default_rng(begin)
        values = rng.random((min(_BLOCK, asked.first + asked.inputs - begin), *shape))
        if raw:
            values = np.floor(256 * values)
        else:
            values[::2] = np.rint(_GRID * values[::2]) / _GRID
        yield values.astype(np.float32)


def _outputs(
    form: BinarizedForward, inputs: NDArray[np.float32]
) -> tuple[NDArray[np.float64], int]:
    """Outputs, and how many integer sums meet their thresholds: only there a sign is +1 by one."""
    bits, met = form.first(inputs.reshape(len(inputs), -1).astype(np.float64)), 0
    for layer in form.layers:
        slack = layer.slack(bits)
        bits, met = slack >= 0, met + int((slack == 0).sum())
    return form.from_last(bits), met


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
