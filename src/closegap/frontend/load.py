"""Read a network: bytes -> ONNX graph -> IR -> fused -> checked against onnxruntime."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from closegap.core.errors import ModelError
from closegap.frontend.agreement import check_agreement
from closegap.frontend.lower import Lowered, lower_graph
from closegap.frontend.parse import OnnxGraph, parse
from closegap.frontend.source import inflate, read_model_bytes
from closegap.frontend.trace import FREE_BATCH, BatchMixedError
from closegap.graph.fusion import least_size
from closegap.graph.network import Network
from closegap.graph.transform import fuse_affine

__all__ = ["load", "loads"]


def load(path: str | Path) -> Network:
    """Read an ONNX file, gzipped or not.

    The network returned computes what the file computes: it was evaluated against onnxruntime.

    Raises:
        ModelError: the file is missing or damaged, its shapes are dynamic, a weight is not
            finite or below float64's normal numbers, or the network and onnxruntime disagree.
        UnsupportedOpError: names the first node that is not supported, why, and what would help.
    """
    place = Path(path)
    return loads(read_model_bytes(place), str(place))


def loads(data: bytes, source: str = "<bytes>", *, check: bool = True) -> Network:
    """Read an ONNX model from memory, gzipped or not.

    Args:
        data: the file's bytes.
        source: where they came from, for messages.
        check: compare with onnxruntime; done once a process for the same bytes.

    Raises:
        ModelError, UnsupportedOpError: as `load`.
    """
    with _naming(source):
        onnx_bytes = inflate(data, source)
        graph = parse(onnx_bytes, source)
        lowered = _lower(graph)
        network = fuse_affine(_network(lowered, onnx_bytes, source))
        _require_normal_weights(network)
        if check:
            check_agreement(network)
    return network


@contextmanager
def _naming(source: str) -> Iterator[None]:
    """Say in a model's errors where the model came from."""
    try:
        yield
    except ModelError as error:
        if source not in str(error):
            error.args = (f"{source}: {error}",)
        raise


def _require_normal_weights(network: Network) -> None:
    """Refuse weights that bounds could not tell from zero; those of float32 files are far above."""
    for node in network.nodes:
        least = least_size(node.op)
        if least < np.finfo(np.float64).smallest_normal:
            raise ModelError(
                f"{network.source}: node '{node.name}' has a weight of {least:g}, below float64's "
                "normal numbers; set it to zero"
            )


def _lower(graph: OnnxGraph) -> Lowered:
    """Trace with a free batch where the file has one; with a batch of 1 where that is mixed."""
    try:
        lowered = lower_graph(graph, fixed=False)
        if lowered.builder.batch != FREE_BATCH or _has_leading_batch(lowered):
            return lowered
        place = f"output '{graph.output_name}'"
    except BatchMixedError as error:
        place = f"node '{error.node}'"
    lowered = lower_graph(graph, fixed=True)
    lowered.builder.note(f"{place} fixes the batch: inputs are evaluated one at a time")
    return lowered


def _has_leading_batch(lowered: Lowered) -> bool:
    return lowered.output is not None and lowered.output.axis == 0


def _network(lowered: Lowered, onnx_bytes: bytes, source: str) -> Network:
    builder, output = lowered.builder, lowered.output
    if output is None:
        raise AssertionError("without recovery every node was lowered")
    # The IR's last node is its output; nodes behind it (dead branches of a Split) are dropped.
    return Network(
        nodes=tuple(builder.nodes[: output.index + 1]),
        onnx_bytes=onnx_bytes,
        digest=hashlib.sha256(onnx_bytes).hexdigest(),
        batch=None if builder.batch == FREE_BATCH else 1,
        source=source,
        softmax_dropped=builder.softmax_dropped,
        notes=tuple(builder.notes),
    )
