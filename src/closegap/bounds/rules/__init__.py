"""One rule for each op, in one dictionary.

An affine rule gives the interval, the adjoint (coefficients move from the node to its inputs) and
the magnitude of the sums it takes, for the rounding allowance. An activation rule gives the
interval and a relaxation: two lines, with parameters that may be chosen freely.
"""

from __future__ import annotations

from typing import cast

from closegap.bounds.rules.affine import (
    AddRule,
    ConvRule,
    ConvTransposeRule,
    LinearRule,
    ScaleRule,
    ShiftRule,
    SumRule,
)
from closegap.bounds.rules.base import ActivationRule, AffineRule, Rule
from closegap.bounds.rules.maximum import MaxRule
from closegap.bounds.rules.moves import CONCAT, PAD, RESHAPE, TAKE, TRANSPOSE
from closegap.bounds.rules.relu import LeakyReluRule, ReluRule
from closegap.bounds.rules.sigmoidal import SIGMOID, TANH
from closegap.bounds.rules.sign import SignRule
from closegap.graph import ops

__all__ = [
    "RULES",
    "ActivationRule",
    "AffineRule",
    "Rule",
    "activation_rule",
    "affine_rule",
    "rule_of",
]

RULES: dict[type, Rule] = {
    ops.Linear: LinearRule(),
    ops.Conv: ConvRule(),
    ops.ConvTranspose: ConvTransposeRule(),
    ops.Scale: ScaleRule(),
    ops.Shift: ShiftRule(),
    ops.Add: AddRule(),
    ops.Pad: PAD,
    ops.Sum: SumRule(),
    ops.Reshape: RESHAPE,
    ops.Transpose: TRANSPOSE,
    ops.Concat: CONCAT,
    ops.Take: TAKE,
    ops.Relu: ReluRule(),
    ops.LeakyRelu: LeakyReluRule(),
    ops.Sigmoid: SIGMOID,
    ops.Tanh: TANH,
    ops.Sign: SignRule(),
    ops.Max: MaxRule(),
}


def rule_of(op: ops.Op) -> Rule:
    """The rule of an op."""
    return RULES[type(op)]


def activation_rule(op: ops.Op) -> ActivationRule:
    """The rule of a non-linear op.

    Raises:
        TypeError: the op is affine.
    """
    if not isinstance(op, ops.ACTIVATIONS):
        raise TypeError(f"{type(op).__name__} is affine")
    return cast(ActivationRule, RULES[type(op)])


def affine_rule(op: ops.Op) -> AffineRule:
    """The rule of an affine op.

    Raises:
        TypeError: the op is not affine.
    """
    if isinstance(op, ops.ACTIVATIONS):
        raise TypeError(f"{type(op).__name__} is not affine")
    return cast(AffineRule, RULES[type(op)])
