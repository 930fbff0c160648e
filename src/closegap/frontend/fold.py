"""Constant folding: nodes without traced inputs are evaluated by ONNX's own reference operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from closegap.frontend.trace import BatchMixedError

__all__ = ["FOLDABLE", "fold"]

_NAMES = """
Abs Add And Cast Ceil Clip Concat Constant ConstantOfShape Cos Div Equal Exp Expand Flatten
Floor Gather GatherElements GatherND Greater GreaterOrEqual Identity Less LessOrEqual Log MatMul
Max Mean Min Mod Mul Neg Not Or Pow Range ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
Relu Reshape Round Shape Sigmoid Sign Sin Size Slice Split Sqrt Squeeze Sub Sum Tanh Tile
Transpose Unsqueeze Where
"""

#: Operators that may run at load time: deterministic, without subgraphs, cheap.
FOLDABLE = frozenset(_NAMES.split())

#: A folded array beyond this is a free batch that leaked into a fill, or not a constant at all.
_MAX_ENTRIES = 2**27


def _entries(shape: NDArray[Any]) -> float:
    return float(np.prod(np.abs(shape), dtype=np.float64))


#: How many entries (or repeats) an operator is asked for; the others do not grow their inputs.
_ASKED: dict[str, Callable[[list[NDArray[Any]]], float]] = {
    "ConstantOfShape": lambda inputs: _entries(inputs[0]),
    "Expand": lambda inputs: _entries(inputs[1]),
    "Range": lambda inputs: abs(float((inputs[1] - inputs[0]) / inputs[2])),
    "Tile": lambda inputs: _entries(inputs[1]) * inputs[0].size,
}


def fold(
    node: onnx.NodeProto, inputs: list[NDArray[Any] | None], opset: int, name: str
) -> tuple[NDArray[Any], ...]:
    """The node's outputs.

    Args:
        node: its operator is in `FOLDABLE`.
        inputs: all constant; `None` for an absent optional one.
        opset: version of the operator set.
        name: of the node, for messages.

    Raises:
        BatchMixedError: the result would be absurdly large.
    """
    asked = _ASKED.get(node.op_type)
    present = [value for value in inputs if value is not None]
    if asked is not None and asked(present) > _MAX_ENTRIES:
        raise BatchMixedError(
            node.op_type, name, "it fills a constant of unbounded size", "export static shapes"
        )
    from onnx.reference import ReferenceEvaluator  # only where something must be folded

    names = [n for n in node.input if n]
    blank = onnx.TypeProto()
    graph = onnx.helper.make_graph(
        [node],
        "constant",
        [onnx.helper.make_value_info(n, blank) for n in dict.fromkeys(names)],
        [onnx.helper.make_value_info(n, blank) for n in node.output if n],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    feed = {n: v for n, v in zip(node.input, inputs, strict=True) if n}
    with np.errstate(all="ignore"):
        results = iter(ReferenceEvaluator(model).run(None, feed))
    return tuple(np.asarray(next(results)) if n else np.zeros(0) for n in node.output)
