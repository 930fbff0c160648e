"""From ONNX bytes to the part of the graph that matters: one input, one output, live nodes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import inliner, numpy_helper

from closegap.core.errors import ModelError

__all__ = [
    "KEEPS_ORDER",
    "STANDARD_DOMAINS",
    "Dim",
    "OnnxGraph",
    "attributes_of",
    "name_of",
    "parse",
    "without_final_softmax",
]

Dim: TypeAlias = int | str

STANDARD_DOMAINS = frozenset({"", "ai.onnx"})

#: Operators that change no value, only its shape or type.
KEEPS_ORDER = frozenset({"Cast", "Dropout", "Flatten", "Identity", "Reshape", "Squeeze"})


@dataclass(frozen=True, eq=False)
class OnnxGraph:
    """The live part of an ONNX graph.

    Attributes:
        nodes: in topological order; all of them are needed for the output.
        constants: initializers read by those nodes, as stored.
        input_name: of the only true input.
        input_shape: whole numbers, or the name of a free dimension.
        output_name: of the only output.
        opset: version of the standard operator set.
        model: as parsed; asked for inferred shapes where a node is not supported.
        source: where it was read from, for messages.
    """

    nodes: tuple[onnx.NodeProto, ...]
    constants: dict[str, NDArray[Any]]
    input_name: str
    input_shape: tuple[Dim, ...]
    output_name: str
    opset: int
    model: onnx.ModelProto
    source: str


def parse(data: bytes, source: str) -> OnnxGraph:
    """Parse an (uncompressed) ONNX file.

    Raises:
        ModelError: not an ONNX file, more than one input or output, an input that is not a
            float32 tensor of known rank, weights that are external or hold a NaN.
    """
    model = _decode(data, source)
    if model.functions:
        model = inliner.inline_local_functions(model)
    graph = model.graph
    initializers = {tensor.name: tensor for tensor in graph.initializer}
    inputs = [info for info in graph.input if info.name not in initializers]
    _require_one(source, "input", [info.name for info in inputs])
    _require_one(source, "output", [info.name for info in graph.output])
    nodes = _live_nodes(graph.node, graph.output[0].name)
    read = {name for node in nodes for name in node.input} | {graph.output[0].name}
    if graph.sparse_initializer:
        raise ModelError(f"{source}: sparse weights are not supported; export them as dense ones")
    return OnnxGraph(
        nodes=nodes,
        constants={n: _array(t, source) for n, t in initializers.items() if n in read},
        input_name=inputs[0].name,
        input_shape=_input_shape(inputs[0], source),
        output_name=graph.output[0].name,
        opset=_opset(model, source),
        model=model,
        source=source,
    )


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    """The node's attributes as Python values; tensors as arrays, bytes as text."""
    return {a.name: _plain(onnx.helper.get_attribute_value(a)) for a in node.attribute}


def name_of(node: onnx.NodeProto) -> str:
    """The node's name, or its first output's where it has none."""
    return str(node.name or (node.output[0] if node.output else node.op_type))


def without_final_softmax(onnx_bytes: bytes) -> bytes:
    """The same model with the Softmax or LogSoftmax before its output made an Identity."""
    model = onnx.load_model_from_string(onnx_bytes)
    producers = {name: node for node in model.graph.node for name in node.output}
    node = producers[model.graph.output[0].name]
    while node.op_type in KEEPS_ORDER:
        node = producers[node.input[0]]
    node.op_type = "Identity"
    del node.attribute[:]
    return bytes(model.SerializeToString())


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    return value


def _decode(data: bytes, source: str) -> onnx.ModelProto:
    try:
        model = onnx.load_model_from_string(data)
    except DecodeError:
        raise ModelError(f"{source}: not an ONNX file, or a damaged one; export it again") from None
    if not model.ir_version or not model.graph.output:
        raise ModelError(f"{source}: not an ONNX file: it holds no graph; export it again")
    if not all(isinstance(n, str) and n.isprintable() for n in _names(model.graph)):
        raise ModelError(f"{source}: a damaged ONNX file: a name is no text; export it again")
    return model


def _names(graph: onnx.GraphProto) -> Iterator[object]:
    """Every name in the graph; protobuf gives bytes where one is not valid text."""
    for named in (*graph.input, *graph.output, *graph.initializer):
        yield named.name
    for info in graph.input:
        yield from (dim.dim_param for dim in info.type.tensor_type.shape.dim)
    for node in graph.node:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        yield from (attribute.name for attribute in node.attribute)


def _opset(model: onnx.ModelProto, source: str) -> int:
    versions = [int(o.version) for o in model.opset_import if o.domain in STANDARD_DOMAINS]
    if not versions:
        raise ModelError(f"{source}: no version of the ONNX operator set is named; export it again")
    return versions[0]


def _require_one(source: str, kind: str, names: list[str]) -> None:
    if len(names) != 1:
        raise ModelError(
            f"{source}: one {kind} is needed, this model has {len(names)} "
            f"({', '.join(names) or 'none'}); export the model with a single {kind}"
        )


def _live_nodes(nodes: Iterable[onnx.NodeProto], output: str) -> tuple[onnx.NodeProto, ...]:
    needed, live = {output}, []
    for node in reversed(list(nodes)):
        if needed.intersection(node.output):
            live.append(node)
            needed.update(name for name in node.input if name)
    return tuple(reversed(live))


def _input_shape(info: onnx.ValueInfoProto, source: str) -> tuple[Dim, ...]:
    tensor = info.type.tensor_type
    if not info.type.HasField("tensor_type") or not tensor.HasField("shape"):
        raise ModelError(
            f"{source}: input '{info.name}' has no shape; export the model with static shapes"
        )
    if tensor.elem_type != onnx.TensorProto.FLOAT:
        names = {number: name for name, number in onnx.TensorProto.DataType.items()}
        kind = names.get(tensor.elem_type, "unknown")
        raise ModelError(
            f"{source}: input '{info.name}' holds {kind} numbers; export the model in float32"
        )
    return tuple(
        int(d.dim_value) if d.HasField("dim_value") else str(d.dim_param or "?")
        for d in tensor.shape.dim
    )


def _array(tensor: onnx.TensorProto, source: str) -> NDArray[Any]:
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        raise ModelError(
            f"{source}: tensor '{tensor.name}' lies in another file; save the model as one file"
        )
    try:
        array = numpy_helper.to_array(tensor)
    except (ValueError, TypeError) as error:
        raise ModelError(f"{source}: tensor '{tensor.name}' is damaged ({error})") from None
    if array.dtype.kind == "f" and np.isnan(array).any():
        raise ModelError(f"{source}: tensor '{tensor.name}' holds NaN; train or export it again")
    return array
