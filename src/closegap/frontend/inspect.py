"""What is in a model, and what of it is not supported, before anything runs."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import onnx

from closegap.core.errors import ModelError, UnsupportedOpError
from closegap.frontend.agreement import check_agreement
from closegap.frontend.load import loads
from closegap.frontend.lower import lower_graph, split_batch
from closegap.frontend.parse import Dim, OnnxGraph, name_of, parse
from closegap.frontend.source import read_model_bytes
from closegap.frontend.trace import Builder, Traced, Value
from closegap.graph.network import Network, Node
from closegap.graph.ops import Reshape, Take

__all__ = ["Inspection", "Layer", "Unsupported", "inspect_model"]


@dataclass(frozen=True)
class Layer:
    """One node of the network as closegap computes it.

    Attributes:
        op: of the IR.
        name: of the ONNX node it came from.
        shape: of its value, without the batch axis.
        parameters: entries of its weights.
    """

    op: str
    name: str
    shape: tuple[int, ...]
    parameters: int


@dataclass(frozen=True)
class Unsupported:
    """A node that cannot be read, why, and what would help."""

    node: str
    op: str
    reason: str
    advice: str


@dataclass(frozen=True)
class Inspection:
    """A model at a glance.

    Attributes:
        source: the path.
        digest: SHA-256 of the uncompressed file.
        size: bytes of the uncompressed file.
        opset: version of the ONNX operator set.
        input_shape: as in the file; a free dimension is its name.
        output_shape: without the batch axis; `None` where it could not be found out.
        operators: ONNX operators the output needs, with how often each occurs.
        parameters: floating-point weights in the file.
        neurons: entries of non-linear nodes, by kind, of what could be read.
        layers: the network as it will be computed; empty where something is not supported.
        notes: what the front end did that a user should know.
        unsupported: every node that cannot be read.
        problem: why the model would still be refused; empty where it would not.
    """

    source: str
    digest: str
    size: int
    opset: int
    input_shape: tuple[Dim, ...]
    output_shape: tuple[int, ...] | None
    operators: dict[str, int]
    parameters: int
    neurons: dict[str, int]
    layers: tuple[Layer, ...]
    notes: tuple[str, ...]
    unsupported: tuple[Unsupported, ...]
    problem: str

    @property
    def supported(self) -> bool:
        """True iff `load` would accept the model."""
        return not self.unsupported and not self.problem


def inspect_model(path: str | Path, *, check: bool = True) -> Inspection:
    """Read as much of a model as possible, without refusing what is not supported.

    Args:
        path: an ONNX file, gzipped or not.
        check: also compare with onnxruntime where everything is supported.

    Raises:
        ModelError: there is nothing to inspect: no such file, not an ONNX file, several inputs.
    """
    place = Path(path)
    data = read_model_bytes(place)
    graph = parse(data, str(place))
    try:
        network = loads(data, str(place), check=False)
    except UnsupportedOpError as error:
        return _partial(graph, data, error)
    except ModelError as error:
        return _report(graph, data, problem=str(error))
    problem = ""
    if check:
        try:
            check_agreement(network)
        except ModelError as error:
            problem = str(error)
    return _report(graph, data, network=network, problem=problem)


def _report(
    graph: OnnxGraph,
    data: bytes,
    *,
    network: Network | None = None,
    nodes: tuple[Node, ...] = (),
    unsupported: tuple[Unsupported, ...] = (),
    problem: str = "",
) -> Inspection:
    known = nodes if network is None else network.nodes
    neurons: Counter[str] = Counter()
    for node in known:
        if node.is_activation:
            neurons[type(node.op).__name__] += node.size
    weights = (a for a in graph.constants.values() if a.dtype.kind == "f")
    return Inspection(
        source=graph.source,
        digest=hashlib.sha256(data).hexdigest(),
        size=len(data),
        opset=graph.opset,
        input_shape=graph.input_shape,
        output_shape=None if network is None else network.nodes[-1].shape,
        operators=dict(Counter(node.op_type for node in graph.nodes).most_common()),
        parameters=sum(int(array.size) for array in weights),
        neurons=dict(neurons),
        layers=() if network is None else tuple(_layer(node) for node in network.nodes),
        notes=() if network is None else network.notes,
        unsupported=unsupported,
        problem=problem,
    )


def _layer(node: Node) -> Layer:
    arrays = (v for v in vars(node.op).values() if isinstance(v, np.ndarray))
    parameters = sum(int(a.size) for a in arrays if a.dtype.kind == "f")
    return Layer(type(node.op).__name__, node.name, node.shape, parameters)


def _partial(graph: OnnxGraph, data: bytes, first: UnsupportedOpError) -> Inspection:
    """Go on behind nodes that are not supported, with stand-ins of the shapes ONNX infers."""
    found: list[UnsupportedOpError] = []
    shapes = _inferred_shapes(graph)

    def recover(
        error: UnsupportedOpError, node: onnx.NodeProto, builder: Builder
    ) -> dict[str, Value]:
        found.append(error)
        known = {name: shapes[name] for name in node.output if name in shapes}
        return {name: _stand_in(builder, shape, name_of(node)) for name, shape in known.items()}

    try:
        nodes = tuple(lower_graph(graph, fixed=True, recover=recover).builder.nodes)
    except ModelError as error:
        return _report(graph, data, unsupported=_unsupported(found or [first]), problem=str(error))
    return _report(graph, data, nodes=nodes, unsupported=_unsupported(found or [first]))


def _unsupported(errors: list[UnsupportedOpError]) -> tuple[Unsupported, ...]:
    return tuple(Unsupported(e.node, e.op, e.reason, e.advice) for e in errors)


def _inferred_shapes(graph: OnnxGraph) -> dict[str, tuple[int, ...]]:
    """Static shapes of intermediate values for a batch of one, as far as ONNX knows them."""
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    shape, _, _ = split_batch(graph, fixed=True)
    for info in model.graph.input:
        if info.name == graph.input_name:
            for dim, size in zip(info.type.tensor_type.shape.dim, shape, strict=True):
                dim.dim_value = size
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except (onnx.shape_inference.InferenceError, ValueError):
        return {}
    dims = {
        info.name: [d.dim_value for d in info.type.tensor_type.shape.dim]
        for info in [*inferred.value_info, *inferred.output]
        if info.type.tensor_type.HasField("shape")
    }
    return {name: tuple(shape) for name, shape in dims.items() if all(d > 0 for d in shape)}


def _stand_in(builder: Builder, shape: tuple[int, ...], name: str) -> Traced:
    """A value of this ONNX shape in place of one that could not be computed."""
    axis = 0 if shape and shape[0] == 1 else None
    sample = shape[1:] if axis == 0 else shape
    zeros = np.zeros(prod(sample), dtype=np.int64)
    flat = builder.emit(Take(zeros), [0], (len(zeros),), name)
    return Traced(builder.emit(Reshape(), [flat], sample, name), shape, axis)
