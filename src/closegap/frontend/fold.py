"""Constant folding: nodes without traced inputs are evaluated by ONNX's own reference operators."""

from __future__ import annotations

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

_SHAPED_BY_INPUT = {"ConstantOfShape": 0, "Expand": 1}


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
    shape_input = _SHAPED_BY_INPUT.get(node.op_type)
    if shape_input is not None and _entries(inputs[shape_input]) > _MAX_ENTRIES:
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


def _entries(shape: NDArray[Any] | None) -> float:
    return 0.0 if shape is None else float(np.prod(np.abs(shape), dtype=np.float64))
