"""A network as a differentiable, batched torch callable. One forward rule for each op."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody uses
from torch import Tensor

from closegap.graph import ops
from closegap.graph.network import Network, Node
from closegap.runtime.surrogate import straight_through

__all__ = ["NodeWeights", "TorchNetwork", "forward_node"]

NodeWeights: TypeAlias = dict[str, Tensor]
Rule: TypeAlias = Callable[[Any, NodeWeights, Sequence[Tensor], tuple[int, ...]], Tensor]


class TorchNetwork:
    """The network's weights on one device in one dtype, and its forward pass.

    Args:
        network: the IR.
        dtype: `torch.float32` or `torch.float64`.
        device: where the weights live and the work is done.
        sign_width: gives signs a straight-through derivative of this width (see
            `runtime.surrogate`); `None` keeps their true one, zero. Values do not change.
    """

    def __init__(
        self,
        network: Network,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        sign_width: float | None = None,
    ) -> None:
        self.network = network
        self.sign_width = sign_width
        self.dtype = dtype
        self.device = torch.device(device)
        self.weights: tuple[NodeWeights, ...] = tuple(self._weights(n) for n in network.nodes)

    def _weights(self, node: Node) -> NodeWeights:
        arrays = {k: v for k, v in vars(node.op).items() if isinstance(v, np.ndarray)}
        return {
            name: torch.as_tensor(
                np.require(array, requirements="W"),
                dtype=torch.int64 if array.dtype == np.int64 else self.dtype,
            ).to(self.device)
            for name, array in arrays.items()
        }

    def tensor(self, array: Any) -> Tensor:
        """The array as a tensor of this network's dtype on its device."""
        return torch.as_tensor(np.asarray(array), dtype=self.dtype).to(self.device)

    def __call__(self, inputs: Tensor) -> Tensor:
        """Outputs `[B, C]` (flattened) of inputs `[B, *input_shape]`; differentiable."""
        return self.values(inputs)[-1].flatten(1)

    def values(self, inputs: Tensor) -> list[Tensor]:
        """The value of every node, in order; each `[B, *shape]`."""
        values: list[Tensor] = [inputs.to(self.dtype)]
        for index, node in enumerate(self.network.nodes[1:], start=1):
            parents = [values[p] for p in node.inputs]
            value = forward_node(node, self.weights[index], parents)
            if self.sign_width is not None and isinstance(node.op, ops.Sign):
                value = straight_through(parents[0], value, self.sign_width)
            values.append(value)
        return values

    def with_sign_width(self, width: float | None) -> TorchNetwork:
        """The same weights, not copied, with another straight-through derivative of signs."""
        twin = copy(self)
        twin.sign_width = width
        return twin


def forward_node(node: Node, weights: NodeWeights, parents: Sequence[Tensor]) -> Tensor:
    """The node's value `[B, *shape]` from its inputs' values `[B, ...]`."""
    return _RULES[type(node.op)](node.op, weights, parents, node.shape)


def _linear(op: ops.Linear, w: NodeWeights, x: Sequence[Tensor], shape: tuple[int, ...]) -> Tensor:
    return F.linear(x[0], w["weight"], w["bias"])


def _conv(op: ops.Conv, w: NodeWeights, x: Sequence[Tensor], shape: tuple[int, ...]) -> Tensor:
    top, left, bottom, right = op.pads
    if (top, left) == (bottom, right):
        padded, padding = x[0], (top, left)
    else:
        padded, padding = F.pad(x[0], (left, right, top, bottom)), (0, 0)
    return F.conv2d(padded, w["weight"], w["bias"], op.stride, padding, op.dilation, op.groups)


def _conv_transpose(
    op: ops.ConvTranspose, w: NodeWeights, x: Sequence[Tensor], shape: tuple[int, ...]
) -> Tensor:
    full = F.conv_transpose2d(
        x[0], w["weight"], None, op.stride, groups=op.groups, dilation=op.dilation
    )
    top, left, _, _ = op.pads
    height, width = shape[1:]  # output_padding included: zeros behind what the kernel reaches
    missing = (left + width - full.shape[3], top + height - full.shape[2])
    full = F.pad(full, (0, max(0, missing[0]), 0, max(0, missing[1])))
    cut = full[:, :, top : top + height, left : left + width]
    return cut + w["bias"][:, None, None]


def _sign(op: ops.Sign, w: NodeWeights, x: Sequence[Tensor], shape: tuple[int, ...]) -> Tensor:
    signs = torch.sign(x[0])
    return signs if op.at_zero == 0 else torch.where(x[0] == 0, op.at_zero, signs)


def _pad(op: ops.Pad, w: NodeWeights, x: Sequence[Tensor], shape: tuple[int, ...]) -> Tensor:
    widths = [side for pair in reversed(op.pads) for side in pair]
    return F.pad(x[0], widths)


def _transpose(
    op: ops.Transpose, w: NodeWeights, x: Sequence[Tensor], shape: tuple[int, ...]
) -> Tensor:
    return x[0].permute(0, *(axis + 1 for axis in op.perm))


_RULES: dict[type, Rule] = {
    ops.Linear: _linear,
    ops.Conv: _conv,
    ops.ConvTranspose: _conv_transpose,
    ops.Scale: lambda op, w, x, shape: x[0] * w["factor"],
    ops.Shift: lambda op, w, x, shape: x[0] + w["offset"],
    ops.Add: lambda op, w, x, shape: x[0] + x[1],
    ops.Pad: _pad,
    ops.Sum: lambda op, w, x, shape: x[0].sum(dim=tuple(axis + 1 for axis in op.axes)),
    ops.Reshape: lambda op, w, x, shape: x[0].reshape(len(x[0]), *shape),
    ops.Transpose: _transpose,
    ops.Concat: lambda op, w, x, shape: torch.cat(list(x), dim=op.axis + 1),
    ops.Take: lambda op, w, x, shape: x[0].flatten(1)[:, w["indices"]],
    ops.Relu: lambda op, w, x, shape: torch.relu(x[0]),
    ops.LeakyRelu: lambda op, w, x, shape: F.leaky_relu(x[0], op.slope),
    ops.Sigmoid: lambda op, w, x, shape: torch.sigmoid(x[0]),
    ops.Tanh: lambda op, w, x, shape: torch.tanh(x[0]),
    ops.Sign: _sign,
    ops.Max: lambda op, w, x, shape: x[0].amax(dim=-1),
}
