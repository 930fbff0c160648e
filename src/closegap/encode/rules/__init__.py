"""One rule for each activation: bounds in, columns and rows out. One file a rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from closegap.encode.expression import Expression
from closegap.encode.rules.greatest import encode_max
from closegap.encode.rules.sign import encode_sign
from closegap.encode.rules.site import Site
from closegap.encode.rules.smooth import encode_smooth
from closegap.encode.rules.split import encode_split
from closegap.graph import ops

__all__ = ["RULES", "Rule", "Site"]

Rule: TypeAlias = Callable[[Any, Expression, Site], Expression]

RULES: dict[type, Rule] = {
    ops.Relu: encode_split,
    ops.LeakyRelu: encode_split,
    ops.Max: encode_max,
    ops.Sign: encode_sign,
    ops.Sigmoid: encode_smooth,
    ops.Tanh: encode_smooth,
}
