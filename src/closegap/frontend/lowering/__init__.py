"""How each ONNX operator becomes IR nodes: one file a group, one registry line an operator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeAlias

from closegap.frontend.lowering.activation import ACTIVATION_LOWERINGS
from closegap.frontend.lowering.arithmetic import ARITHMETIC_LOWERINGS
from closegap.frontend.lowering.comparison import COMPARISON_LOWERINGS
from closegap.frontend.lowering.convolution import CONVOLUTION_LOWERINGS
from closegap.frontend.lowering.layout import LAYOUT_LOWERINGS
from closegap.frontend.lowering.linear import LINEAR_LOWERINGS
from closegap.frontend.lowering.pooling import POOLING_LOWERINGS
from closegap.frontend.lowering.reduction import REDUCTION_LOWERINGS
from closegap.frontend.lowering.selection import SELECTION_LOWERINGS
from closegap.frontend.trace import Call, Value

__all__ = ["LOWERINGS", "Lowering"]

Lowering: TypeAlias = Callable[[Call], Value | tuple[Value, ...]]

#: ONNX operator -> its lowering. `fold.FOLDABLE` lists what else is allowed on constants.
LOWERINGS: Mapping[str, Lowering] = MappingProxyType(
    {
        **ACTIVATION_LOWERINGS,
        **ARITHMETIC_LOWERINGS,
        **COMPARISON_LOWERINGS,
        **CONVOLUTION_LOWERINGS,
        **LAYOUT_LOWERINGS,
        **LINEAR_LOWERINGS,
        **POOLING_LOWERINGS,
        **REDUCTION_LOWERINGS,
        **SELECTION_LOWERINGS,
    }
)
