"""A network as its linear piece at an image, and what other pieces add.

At the image every ReLU is on or off. With `s` its slope there, 1 or that of its negative side,

    relu(z) = s z + excess,   excess = (1 - slope) max(-sign z, 0) >= 0,

sign = 1 where it is on and -1 where it is off: the excess is 0 until the phase changes. So rows of
any node are linear in the difference from the image and in the excesses before it, with the
coefficients of the image's own gradients. No bound of any neuron goes into them: they are made
once, and hold in all of [0, 1]^D.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.sparse import csr_array, diags_array

from closegap.core.budget import Budget
from closegap.core.numerics import FLOAT64_UNIT, TINY, gamma
from closegap.encode.affine import affine_map
from closegap.graph import ops
from closegap.graph.network import Network

__all__ = ["LinearPiece", "Matrix", "PieceRows", "added", "positive", "product", "scaled_columns"]

Array: TypeAlias = NDArray[np.float64]
#: Dense, or sparse where most entries are 0.
Matrix: TypeAlias = Array | csr_array

#: A matrix with a larger share of entries is dense.
_FULL = 0.2
#: Multiplications of all rows; larger networks have no time for them.
_MOST_PRODUCTS = 6_000_000_000
#: Roundings of a step beside those of its sums.
_EXTRA = 16


@dataclass(frozen=True, eq=False)
class PieceRows:
    """Rows of one node, around the image.

    For every x in [0, 1]^D, d = x - image, in exact arithmetic

        rows . value(x)  >=  base + slopes . d + sum over activations of through . excess(x)

    Attributes:
        base: `[Q]`.
        slopes: `[Q, D]`.
        through: by activation node, `[Q, its size]`.
    """

    base: Float[np.ndarray, "Q"]
    slopes: Matrix
    through: Mapping[int, Matrix]


class LinearPiece:
    """One network around one image.

    Args:
        network: of affine ops, ReLUs and leaky ReLUs with a slope from 0 to 1.
        image: `[D]`, float64.
        budget: of all rows together; checked between nodes.

    Attributes:
        signs: by feeding node, 1 or -1.
        missing: whether rows were not made: time was up, or the network is too large or has other
            ops. What there is must then not be used.
    """

    def __init__(self, network: Network, image: Float[np.ndarray, "D"], budget: Budget) -> None:
        self.network = network
        self._budget = budget
        self._products = 0.0
        self.missing = not all(_known(node.op) for node in network.nodes)
        self.signs: dict[int, Array] = {}
        self._maps: dict[int, Sequence[Matrix]] = {}
        self._values, self._off = [image], [np.zeros(image.size)]
        self._grown = [np.nextafter(np.maximum(image, 1 - image), np.inf)]
        for index in range(1, len(network.nodes)):
            if self._stopped():
                return
            self._evaluate(index)

    def base(self, node: int) -> tuple[Array, Array]:
        """A node's value at the image, and how far that may be off."""
        return self._values[node], self._off[node]

    def lift(self, activation: int) -> float:
        """What an excess is of how far its input is beyond 0: `1 - slope`, rounded up."""
        slope = _slope(self.network.nodes[activation].op)
        return float(np.nextafter(1 - slope, np.inf)) if slope else 1.0

    def rows(self, start: int, rows: Matrix) -> PieceRows:
        """Rows of a node, exact but for what is taken off their base."""
        pending: dict[int, Matrix] = {start: rows}
        through: dict[int, Matrix] = {}
        lost = np.zeros(rows.shape[0])
        for index in range(start, 0, -1):
            if index not in pending or self._stopped():
                continue
            coefficients, node = pending.pop(index), self.network.nodes[index]
            lost += self._lost(index, coefficients)
            if node.is_activation:
                through[index] = coefficients
                parts = [scaled_columns(coefficients, self._line(index))]
                lost += positive(coefficients) @ self._early(index)
            else:
                parts = [self._through(coefficients, matrix) for matrix in self._maps[index]]
            for parent, part in zip(node.inputs, parts, strict=True):
                known = pending.get(parent)
                pending[parent] = part if known is None else added(known, part)
        empty = csr_array((rows.shape[0], self.network.input_size))
        value, off = self._values[start], self._off[start]
        lost += _sizes(rows) @ (off + gamma(len(value) + _EXTRA) * np.abs(value))
        base = rows @ value - lost * (1 + gamma(_EXTRA + len(self.network.nodes)))
        return PieceRows(base, pending.get(0, empty), through)

    def _stopped(self) -> bool:
        self.missing = self.missing or self._products > _MOST_PRODUCTS or self._budget.expired
        return self.missing

    def _evaluate(self, index: int) -> None:
        """A node's value at the image, its rounding, and how far it moves in [0, 1]^D at most."""
        node = self.network.nodes[index]
        if node.is_activation:
            feed = node.inputs[0]
            before = self._values[feed]
            self.signs[feed] = np.where(before >= 0, 1.0, -1.0)
            slope = _slope(node.op)
            self._values.append(np.where(before >= 0, before, slope * before))
            self._off.append(self._off[feed] + 2 * FLOAT64_UNIT * np.abs(before) + TINY)
            self._grown.append(self._grown[feed])
            return
        parents = [self.network.nodes[p] for p in node.inputs]
        matrices, bias = affine_map(node, parents)
        self._maps[index] = [_packed(matrix) for matrix in matrices]
        value, size = bias.copy(), np.abs(bias)
        off, grown = np.zeros(node.size), np.zeros(node.size)
        for parent, matrix in zip(node.inputs, self._maps[index], strict=True):
            value += matrix @ self._values[parent]
            steep = _sizes(matrix)
            size += steep @ np.abs(self._values[parent])
            off += steep @ self._off[parent]
            grown += steep @ self._grown[parent]
        terms = gamma(sum(p.size for p in parents) + _EXTRA)
        self._values.append(value)
        self._off.append((off + terms * size) * (1 + 2 * terms) + TINY)
        self._grown.append(grown * (1 + 2 * terms) + TINY)

    def _line(self, activation: int) -> Array:
        """Each neuron's slope at the image."""
        node = self.network.nodes[activation]
        return np.asarray(np.where(self.signs[node.inputs[0]] > 0, 1.0, _slope(node.op)))

    def _early(self, activation: int) -> Array:
        """How large an excess may be at the image itself: rounding may have turned a sign."""
        feed = self.network.nodes[activation].inputs[0]
        return np.asarray(np.maximum(2 * self._off[feed] - np.abs(self._values[feed]), 0.0))

    def _lost(self, index: int, coefficients: Matrix) -> Array:
        """What the step from a node to its inputs may lose of a row's change."""
        grown, node = self._grown[index], self.network.nodes[index]
        terms = gamma(node.size + _EXTRA + len(self.network.nodes))
        return np.asarray(2 * terms * (_sizes(coefficients) @ grown) + TINY * (1 + grown.sum()))

    def _through(self, coefficients: Matrix, matrix: Matrix) -> Matrix:
        found, products = product(coefficients, matrix)
        self._products += products
        return found


def _known(op: ops.Op) -> bool:
    if isinstance(op, ops.LeakyRelu):
        return 0 <= op.slope <= 1
    return isinstance(op, ops.Relu) or not isinstance(op, ops.ACTIVATIONS)


def _slope(op: ops.Op) -> float:
    return op.slope if isinstance(op, ops.LeakyRelu) else 0.0


def _packed(matrix: Matrix) -> Matrix:
    """Dense where that is as fast."""
    if isinstance(matrix, csr_array) and matrix.nnz > _FULL * matrix.shape[0] * matrix.shape[1]:
        return np.asarray(matrix.toarray())
    return matrix


def _sizes(matrix: Matrix) -> Matrix:
    return csr_array(abs(matrix)) if isinstance(matrix, csr_array) else np.abs(matrix)


def product(left: Matrix, right: Matrix) -> tuple[Matrix, float]:
    """`left @ right`, and about how many multiplications that was."""
    if isinstance(left, csr_array) and isinstance(right, csr_array):
        count = float(np.diff(right.indptr)[left.indices].sum())
    elif isinstance(left, csr_array):
        count = float(left.nnz) * right.shape[1]
    else:
        stored = right.nnz if isinstance(right, csr_array) else right.size
        count = float(left.shape[0]) * stored
    return _packed(left @ right), count


def added(left: Matrix, right: Matrix) -> Matrix:
    """Their sum."""
    if isinstance(left, csr_array) and isinstance(right, csr_array):
        return _packed(csr_array(left + right))
    parts = [part.toarray() if isinstance(part, csr_array) else part for part in (left, right)]
    return np.asarray(parts[0] + parts[1])


def positive(matrix: Matrix) -> Matrix:
    """Its entries above 0."""
    if not isinstance(matrix, csr_array):
        return np.maximum(matrix, 0.0)
    found = csr_array(matrix.maximum(0))
    found.eliminate_zeros()
    return found


def scaled_columns(matrix: Matrix, factor: Float[np.ndarray, "C"]) -> Matrix:
    """Each column times its factor; columns times 0 have no entries."""
    if isinstance(matrix, csr_array):
        found = csr_array(matrix @ diags_array(factor, format="csr"))
        found.eliminate_zeros()
        return found
    return np.asarray(matrix * factor)
