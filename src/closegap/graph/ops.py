"""The ops of the IR. Few on purpose: the front end lowers every ONNX operator to these.

Shapes never hold the batch dimension. Weights are float64 numpy arrays (a float32 ONNX weight is
held exactly; fused ones are rounded once). Every op is either *affine* in its inputs, or an
*activation*: elementwise, or `Max` over the last axis.

How ONNX arrives here: BatchNormalization, Mul, Div -> Scale + Shift (or fused into Linear/Conv);
AveragePool -> depthwise Conv (+ Scale at the borders); MaxPool -> Take (windows) + Max; Slice,
Gather, Split -> Take; Clip -> two Relu; Squeeze, Flatten -> Reshape; one-dimensional Conv -> a
two-dimensional one between two Reshapes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "ACTIVATIONS",
    "Activation",
    "Add",
    "Affine",
    "Concat",
    "Conv",
    "ConvTranspose",
    "Input",
    "LeakyRelu",
    "Linear",
    "Max",
    "Op",
    "Pad",
    "Relu",
    "Reshape",
    "Scale",
    "Shift",
    "Sigmoid",
    "Sign",
    "Sum",
    "Take",
    "Tanh",
    "Transpose",
]

Array: TypeAlias = NDArray[np.float64]
Pair: TypeAlias = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Input:
    """The network's input."""


@dataclass(frozen=True, eq=False)
class Linear:
    """`y = x @ weight.T + bias` over the last axis. weight `[n_out, n_in]`, bias `[n_out]`."""

    weight: Array
    bias: Array


@dataclass(frozen=True, eq=False)
class Conv:
    """Two-dimensional cross-correlation of `[C, H, W]`, as in ONNX.

    weight `[C_out, C_in / groups, kh, kw]`, bias `[C_out]`,
    pads `(top, left, bottom, right)` of zeros.
    """

    weight: Array
    bias: Array
    stride: Pair
    pads: tuple[int, int, int, int]
    dilation: Pair
    groups: int


@dataclass(frozen=True, eq=False)
class ConvTranspose:
    """The adjoint of a convolution, as in ONNX: weight `[C_in, C_out / groups, kh, kw]`."""

    weight: Array
    bias: Array
    stride: Pair
    pads: tuple[int, int, int, int]
    output_padding: Pair
    dilation: Pair
    groups: int


@dataclass(frozen=True, eq=False)
class Scale:
    """`y = x * factor`, factor of the node's own shape or broadcastable to it (never wider)."""

    factor: Array


@dataclass(frozen=True, eq=False)
class Shift:
    """`y = x + offset`, offset broadcastable to the node's shape (never wider)."""

    offset: Array


@dataclass(frozen=True, eq=False)
class Add:
    """`y = x0 + x1`, two nodes of the same shape."""


@dataclass(frozen=True, eq=False)
class Pad:
    """Zeros around: `pads[axis] = (before, after)` for every axis; never negative."""

    pads: tuple[Pair, ...]


@dataclass(frozen=True, eq=False)
class Sum:
    """Sum over `axes`, which are dropped."""

    axes: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Reshape:
    """The same entries in the same (row-major) order under the node's shape."""


@dataclass(frozen=True, eq=False)
class Transpose:
    """`y.shape[i] = x.shape[perm[i]]`."""

    perm: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Concat:
    """Any number of inputs, joined along `axis`."""

    axis: int


@dataclass(frozen=True, eq=False)
class Take:
    """`y = x.reshape(-1)[indices]`: selection with constant flat indices, repeats allowed."""

    indices: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Relu:
    """`max(x, 0)`."""


@dataclass(frozen=True, eq=False)
class LeakyRelu:
    """`x` for `x >= 0`, else `slope * x`, with `0 <= slope < 1`."""

    slope: float


@dataclass(frozen=True, eq=False)
class Sigmoid:
    """`1 / (1 + exp(-x))`."""


@dataclass(frozen=True, eq=False)
class Tanh:
    """Hyperbolic tangent."""


@dataclass(frozen=True, eq=False)
class Sign:
    """-1 below 0, +1 above, and `at_zero` (0 as in ONNX, or +1 as in binarized networks) at 0."""

    at_zero: int


@dataclass(frozen=True, eq=False)
class Max:
    """The greatest entry over the last axis, which is dropped."""


Affine: TypeAlias = (
    Linear | Conv | ConvTranspose | Scale | Shift | Add | Pad | Sum | Reshape | Transpose
    | Concat | Take
)  # fmt: skip
Activation: TypeAlias = Relu | LeakyRelu | Sigmoid | Tanh | Sign | Max
Op: TypeAlias = Input | Affine | Activation

ACTIVATIONS: tuple[type[Activation], ...] = (Relu, LeakyRelu, Sigmoid, Tanh, Sign, Max)
