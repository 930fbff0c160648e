"""One pass over the ONNX graph: fold what is constant, lower what depends on the input."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

import onnx

from closegap.core.errors import ModelError, UnsupportedOpError
from closegap.frontend.fold import FOLDABLE, fold
from closegap.frontend.lowering import LOWERINGS
from closegap.frontend.parse import KEEPS_ORDER, STANDARD_DOMAINS, OnnxGraph, attributes_of, name_of
from closegap.frontend.trace import FREE_BATCH, Builder, Call, Shape, Traced, Value
from closegap.graph.network import Node
from closegap.graph.ops import Input

__all__ = ["Lowered", "Recover", "lower_graph", "split_batch"]

Outputs = TypeVar("Outputs")

#: Called with a node that is not supported; gives stand-ins for its outputs, or raises.
Recover = Callable[[UnsupportedOpError, onnx.NodeProto, Builder], dict[str, Value]]


@dataclass(frozen=True, eq=False)
class Lowered:
    """What came out: the builder, and the value of the network's output.

    `output` is `None` only where nodes were not supported and `recover` went on.
    """

    builder: Builder
    output: Traced | None


def split_batch(graph: OnnxGraph, *, fixed: bool) -> tuple[Shape, int | None, int]:
    """The input's shape for tracing, its batch axis, and the batch's length.

    A leading dimension that is free, or 1, is the batch; any other leads the features. With
    `fixed` a free batch is taken as 1.

    Raises:
        ModelError: a dimension other than the first is free.
    """
    first, *rest = graph.input_shape or (0,)
    free = [d for d in rest if isinstance(d, str) or d < 1]
    if free or (isinstance(first, str) and not rest):
        raise ModelError(
            f"{graph.source}: input '{graph.input_name}' has shape {list(graph.input_shape)}; only "
            "the first dimension (the batch) may be free, export the model with static shapes"
        )
    sizes = tuple(int(d) for d in rest)
    if isinstance(first, str) or first < 1 < len(graph.input_shape):
        batch = 1 if fixed else FREE_BATCH
        return (batch, *sizes), 0, batch
    if not graph.input_shape:
        return (), None, 1
    return (int(first), *sizes), 0 if first == 1 and rest else None, 1


def lower_graph(graph: OnnxGraph, *, fixed: bool, recover: Recover | None = None) -> Lowered:
    """Lower every live node.

    Args:
        graph: as parsed.
        fixed: take a free batch dimension as 1.
        recover: what to do at a node that is not supported; raises by default.

    Raises:
        UnsupportedOpError: of the first node that is not supported, unless `recover` handles it.
        ModelError: the output does not depend on the input, or a weight is not finite.
    """
    shape, axis, batch = split_batch(graph, fixed=fixed)
    builder = Builder(batch)
    entry = Traced(0, shape, axis)
    builder.nodes.append(Node(Input(), (), entry.sample, graph.input_name))
    values: dict[str, Value | None] = dict(graph.constants)
    values[graph.input_name] = entry
    final = _final_names(graph)
    lost: set[str] = set()
    for node in graph.nodes:
        try:
            if lost.intersection(node.input):
                _require_rule(node)
                lost.update(node.output)
                continue
            values.update(_lower_node(node, values, graph.opset, builder, final))
        except UnsupportedOpError as error:
            if recover is None:
                raise
            stand_ins = recover(error, node, builder)
            values.update(stand_ins)
            lost.update(name for name in node.output if name not in stand_ins)
    output = values.get(graph.output_name)
    if not (isinstance(output, Traced) or graph.output_name in lost):
        raise ModelError(f"{graph.source}: its output does not depend on its input; repair it")
    return Lowered(builder, output if isinstance(output, Traced) else None)


def _require_rule(node: onnx.NodeProto) -> None:
    """Raise for an operator that has no rule, whatever its inputs are."""
    if node.domain not in STANDARD_DOMAINS:
        raise UnsupportedOpError(
            f"{node.domain}.{node.op_type}",
            name_of(node),
            "it is not in the standard operator set",
            "export the model with standard ONNX operators",
        )
    if node.op_type not in LOWERINGS and node.op_type not in FOLDABLE:
        raise UnsupportedOpError(
            node.op_type,
            name_of(node),
            "the front end has no rule for it",
            "rewrite it with supported operators, or remove what needs it",
        )


def _lower_node(
    node: onnx.NodeProto,
    values: dict[str, Value | None],
    opset: int,
    builder: Builder,
    final: frozenset[str],
) -> dict[str, Value]:
    name = name_of(node)
    inputs = [_value(values, n, node) if n else None for n in node.input]
    traced = any(isinstance(v, Traced) for v in inputs)
    _require_rule(node)
    if not traced and node.op_type in FOLDABLE:
        constants = [v for v in inputs if not isinstance(v, Traced)]
        return _named(node, _translated(node, lambda: fold(node, constants, opset, name)))
    if node.op_type not in LOWERINGS:
        raise UnsupportedOpError(
            node.op_type,
            name,
            "it is supported for constants only, and one of its inputs depends on the network's",
            "rewrite it with supported operators",
        )
    call = Call(
        op=node.op_type,
        name=name,
        input_names=tuple(node.input),
        inputs=tuple(inputs),
        output_count=sum(1 for n in node.output if n),
        attributes=attributes_of(node),
        opset=opset,
        is_final=node.output[0] in final,
        builder=builder,
    )
    outputs = _translated(node, lambda: LOWERINGS[node.op_type](call))
    return _named(node, outputs if isinstance(outputs, tuple) else (outputs,))


def _translated(node: onnx.NodeProto, work: Callable[[], Outputs]) -> Outputs:
    """What `work` gives; a node without what its operator needs becomes the user's error."""
    try:
        return work()
    except (TypeError, ValueError, IndexError, KeyError, AttributeError, RuntimeError) as error:
        text = next(iter(str(error).splitlines()), type(error).__name__)
        raise ModelError(
            f"node '{name_of(node)}' ({node.op_type}) is malformed ({text}); export the model again"
        ) from error


def _value(values: dict[str, Value | None], name: str, node: onnx.NodeProto) -> Value | None:
    if name not in values:
        raise ModelError(f"node '{name_of(node)}' reads '{name}', which nothing computes")
    return values[name]


def _named(node: onnx.NodeProto, outputs: Iterable[Value]) -> dict[str, Value]:
    return {name: value for name, value in zip(node.output, outputs, strict=False) if name}


def _final_names(graph: OnnxGraph) -> frozenset[str]:
    """Values that equal the output but for their shape, and that nothing else reads."""
    readers = Counter(name for node in graph.nodes for name in node.input)
    final = {graph.output_name}
    for node in reversed(graph.nodes):
        if node.op_type in KEEPS_ORDER and final.intersection(node.output):
            final.add(node.input[0])
    return frozenset(n for n in final if readers[n] <= int(n != graph.output_name))
