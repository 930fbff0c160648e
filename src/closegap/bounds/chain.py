"""The affine steps of a chain of dense ReLU layers: sparse where that pays, and linear pairs."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from closegap.graph import ops
from closegap.graph.network import Network
from closegap.runtime.torch_network import TorchNetwork

if TYPE_CHECKING:
    from scipy.sparse import csr_array

__all__ = ["ChainWeight", "affine_steps", "chain_nodes", "make_linear", "may_fold"]

#: Weights with fewer entries than this share are kept sparse, if there are enough of them.
_SPARSE_SHARE = 0.15
_SPARSE_ENTRIES = 20_000


class ChainWeight:
    """One affine step `W x + b`, dense or sparse; `reach` bounds the terms that made `b`."""

    def __init__(self, weight: Tensor, bias: Tensor, reach: Tensor) -> None:
        filled = int(torch.count_nonzero(weight))
        entries = weight.numel()
        self.dense, self.bias, self.absolute, self.reach = weight, bias, weight.abs(), reach
        self.entries = entries
        self.terms = max(weight.shape)
        self._forward: csr_array | None = None
        if entries >= _SPARSE_ENTRIES and filled <= _SPARSE_SHARE * entries:
            from scipy.sparse import csr_array  # slow to import, and few chains need it

            matrix = csr_array(weight.numpy())
            self._forward, self._absolute = matrix, abs(matrix)
            self._back = csr_array(matrix.T)
            self.entries = 2 * filled
            counts = [np.diff(m.indptr).max(initial=0) for m in (self._forward, self._back)]
            self.terms = int(max(counts))

    def forward(self, rows: Tensor) -> Tensor:
        """`[..., in] -> [..., out]`, without the bias."""
        return _times(self._forward, rows) if self._forward is not None else rows @ self.dense.T

    def forward_absolute(self, rows: Tensor) -> Tensor:
        """The same with absolute weights."""
        if self._forward is not None:
            return _times(self._absolute, rows)
        return rows @ self.absolute.T

    def back(self, rows: Tensor) -> Tensor:
        """`[P, out] -> [P, in]`."""
        return _times(self._back, rows) if self._forward is not None else rows @ self.dense


def _times(matrix: csr_array, rows: Tensor) -> Tensor:
    """`rows @ matrix^T`; the result lies in memory with the rows as columns, which sparse
    products like, and elementwise operations keep that order."""
    columns = rows.reshape(-1, rows.shape[-1]).T.contiguous()
    found = torch.from_numpy(np.ascontiguousarray(matrix @ columns.numpy()))
    return found.T.reshape(*rows.shape[:-1], matrix.shape[0])


def chain_nodes(network: Network) -> list[list[int]] | None:
    """The dense layers between the ReLUs of a chain, by node; `None` where it is none."""
    layers: list[list[int]] = [[]]
    for index, node in enumerate(network.nodes[1:], start=1):
        if tuple(node.inputs) != (index - 1,):
            return None
        if isinstance(node.op, ops.Relu) and layers[-1]:
            layers.append([])
        elif isinstance(node.op, ops.Linear) and len(node.shape) == 1:
            layers[-1].append(index)
        elif not isinstance(node.op, ops.Reshape):
            return None
    return layers if layers[-1] else None


def may_fold(network: Network) -> bool:
    """Whether a chain's shape and readers are those of a lattice of maxima, written with ReLUs.

    Neurons come in pairs, whose readers multiply by powers of two, so that no product is rounded.
    There is one layer before the first ReLU and behind the last, and there are two between.
    """
    layers = chain_nodes(network)
    if layers is None or len(layers) < 2 or [len(layers[0]), len(layers[-1])] != [1, 1]:
        return False
    if any(len(nodes) != 2 for nodes in layers[1:-1]):
        return False
    readers = [network.nodes[after[0]].op for _, after in pairwise(layers)]
    return all(isinstance(op, ops.Linear) and _reads_pairs(op) for op in readers)


def _reads_pairs(op: ops.Linear) -> bool:
    used = op.weight[op.weight != 0]
    return op.weight.shape[1] % 2 == 0 and bool((np.frexp(np.abs(used))[0] == 0.5).all())


def affine_steps(network: TorchNetwork) -> list[list[tuple[Tensor, Tensor]]] | None:
    """Weights and biases between the ReLUs of a chain; `None` where it is none."""
    if network.dtype != torch.float64 or network.device.type != "cpu":
        return None
    layers = chain_nodes(network.network)
    if layers is None:
        return None
    weights = network.weights
    return [[(weights[i]["weight"].clone(), weights[i]["bias"]) for i in nodes] for nodes in layers]


def make_linear(step: tuple[Tensor, Tensor], reader: tuple[Tensor, Tensor]) -> Bool[Tensor, "N"]:
    """Which ReLUs may be left out, `[N]`: `relu(z) - relu(-z) = z`, whatever the sign.

    The reader's weight of the second one of each pair becomes zero, in place: callers pass copies.
    Lattices of maxima, written with ReLUs, are full of such pairs.
    """
    weight, bias = step
    target = reader[0]
    ramp = torch.linspace(1, 2, weight.shape[1], dtype=weight.dtype)
    key = (weight * ramp).sum(dim=1) + 3 * bias
    order = torch.argsort(key.abs())
    one, two = order[:-1], order[1:]
    near = (key[one] == -key[two]).nonzero()[:, 0]
    one, two = one[near], two[near]
    equal = (weight[one] == -weight[two]).all(dim=1) & (bias[one] == -bias[two])
    equal &= (target[:, one] == -target[:, two]).all(dim=0)
    linear = torch.zeros(len(bias), dtype=torch.bool)
    for first, second in zip(one[equal].tolist(), two[equal].tolist(), strict=True):
        if not (linear[first] or linear[second]):
            linear[first] = linear[second] = True
            target[:, second] = 0
    return linear
