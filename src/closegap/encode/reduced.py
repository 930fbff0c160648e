"""The network that is left on a region once its stable neurons are gone.

Stable neurons are affine there, so every unstable pre-activation is an affine function of the
input and of the unstable neurons before it. Written out, that is a small dense network: products
of `[rows, columns]` matrices instead of convolutions. Branch and bound visits thousands of
subdomains of one region, and pays the composition once.

What composing in floating point loses is bounded entry by entry (`slack`) and counted as rounding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import csr_array, eye_array

from closegap.core.budget import Budget
from closegap.core.numerics import gamma
from closegap.encode.affine import affine_entries, affine_map
from closegap.encode.expression import Expression, multiply, place, widen
from closegap.graph import ops
from closegap.graph.network import Network, Node

__all__ = ["ReducedNetwork", "reduce_network", "reduction_pays"]

#: Dense work may exceed the original's by this much where a dense network is what is needed.
_WORTH = 8.0
#: Entries of all composed matrices together.
_MOST_ENTRIES = 120_000_000


@dataclass(frozen=True, eq=False)
class ReducedNetwork:
    """An equal network on the region, up to `slack`.

    Attributes:
        network: input flat, then `Linear`, activation and `Concat` nodes only.
        origin: by feeding node of the reduced network, its feeding node in the original and the
            flat indices of its neurons there.
        bounds: by feeding node of the reduced network, lower and upper bounds `[N]`.
        slack: by node, how far its value may be from the original's, `[N]`.
        reach: the greatest absolute value of each input, then of each unit's output, `[S]`.
    """

    network: Network
    origin: Mapping[int, tuple[int, Int[np.ndarray, "N"]]]
    bounds: Mapping[int, tuple[Float[np.ndarray, "N"], Float[np.ndarray, "N"]]]
    slack: Mapping[int, Float[np.ndarray, "N"]]
    reach: Float[np.ndarray, "S"]


def reduce_network(
    network: Network,
    bounds: Mapping[int, tuple[Float[np.ndarray, "N"], Float[np.ndarray, "N"]]],
    reach: Float[np.ndarray, "D"],
    *,
    worth: float = _WORTH,
    budget: Budget | None = None,
) -> ReducedNetwork | None:
    """Compose the affine parts between unstable neurons.

    Args:
        network: with ReLU and leaky ReLU activations only.
        bounds: by feeding node, flat lower and upper bounds that hold on the region.
        reach: the greatest absolute value of each input on the region.
        worth: how many times the original's products the dense ones may take.
        budget: composing is given up when it ends.

    Returns:
        the reduced network, or `None` where it would not be cheaper, the network has other
        activations, or the budget ended.
    """
    nodes = network.nodes
    if any(not isinstance(nodes[i].op, ops.Relu | ops.LeakyRelu) for i in network.activations):
        return None
    if not reduction_pays(network, bounds, worth):
        return None
    composer = _Composer(network, bounds, reach)
    for index in range(1, len(nodes)):
        if budget is not None and budget.expired:
            return None
        composer.visit(index)
    return composer.finish()


def reduction_pays(
    network: Network,
    bounds: Mapping[int, tuple[Float[np.ndarray, "N"], Float[np.ndarray, "N"]]],
    worth: float = _WORTH,
) -> bool:
    """Whether dense products take at most `worth` times the network's own, and fit in memory."""
    columns, dense = network.input_size, 0
    for index in network.activations:
        lower, upper = bounds[network.nodes[index].inputs[0]]
        open_ = int(((lower < 0) & (upper > 0)).sum())
        dense += open_ * columns
        columns += open_
    dense += network.output_size * columns
    largest = max(node.size for node in network.nodes)
    original = sum(
        affine_entries(n, [network.nodes[p] for p in n.inputs])
        for n in network.nodes[1:]
        if not n.is_activation
    )
    return dense <= worth * original and largest * columns <= _MOST_ENTRIES


@dataclass(frozen=True, eq=False)
class _Value:
    """A node's value over the columns, and how far off the expression may be, `[N]`."""

    expression: Expression
    error: Float[np.ndarray, "N"]


class _Composer:
    """Walks the original network and grows the reduced one."""

    def __init__(
        self,
        network: Network,
        bounds: Mapping[int, tuple[np.ndarray, np.ndarray]],
        reach: np.ndarray,
    ) -> None:
        self._source = network
        self._bounds = bounds
        self._reach = reach.astype(np.float64)
        size = network.input_size
        identity = Expression(csr_array(eye_array(size, format="csr")), np.zeros(size))
        self._values: dict[int, _Value] = {0: _Value(identity, np.zeros(size))}
        self._nodes = [Node(ops.Input(), (), (size,), "input")]
        self._state = 0
        self._origin: dict[int, tuple[int, np.ndarray]] = {}
        self._slack: dict[int, np.ndarray] = {}
        self._reduced_bounds: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def visit(self, index: int) -> None:
        """Express one more node."""
        node = self._source.nodes[index]
        if node.is_activation:
            self._activation(index, node)
            return
        parents = [self._values[p] for p in node.inputs]
        matrices, bias = affine_map(node, [self._source.nodes[p] for p in node.inputs])
        columns = len(self._reach)
        matrix, constant, error = csr_array((node.size, columns)), bias.copy(), np.zeros(node.size)
        size = np.abs(bias)
        terms = 2
        for weights, parent in zip(matrices, parents, strict=True):
            expression = parent.expression
            matrix = csr_array(
                matrix + widen(multiply(weights, expression.matrix), columns)
                if len(parents) > 1
                else widen(multiply(weights, expression.matrix), columns)
            )
            constant = constant + weights @ expression.constant
            span = expression.matrix.shape[1]
            inner = abs(expression.matrix) @ self._reach[:span] + np.abs(expression.constant)
            size = size + abs(weights) @ inner
            error = error + abs(weights) @ parent.error
            terms += int(np.diff(weights.indptr).max(initial=0)) + 1
        error = error + 2 * gamma(terms + 4) * size
        self._values[index] = _Value(Expression(matrix, constant), error)

    def _activation(self, index: int, node: Node) -> None:
        feed = node.inputs[0]
        lower, upper = self._bounds[feed]
        slope = node.op.slope if isinstance(node.op, ops.LeakyRelu) else 0.0
        open_ = np.flatnonzero((lower < 0) & (upper > 0))
        value = self._values[feed]
        factor = np.where(lower >= 0, 1.0, slope)
        factor[open_] = 0.0
        before = len(self._reach)
        if len(open_):
            self._open_units(node, feed, open_)
        columns = len(self._reach)
        kept = np.flatnonzero(factor)
        scaling = place(kept, kept, factor[kept], (len(factor), len(factor)))
        matrix = widen(csr_array(scaling @ value.expression.matrix), columns)
        unit = place(open_, before + np.arange(len(open_)), 1.0, (len(factor), columns))
        expression = Expression(csr_array(matrix + unit), factor * value.expression.constant)
        with np.errstate(invalid="ignore"):  # 0 times infinity is NaN, which no proof survives
            rounding = 2 * gamma(2) * np.abs(factor) * np.maximum(np.abs(lower), np.abs(upper))
        self._values[index] = _Value(expression, np.abs(factor) * value.error + rounding)

    def _open_units(self, node: Node, feed: int, open_: np.ndarray) -> None:
        """A dense layer of the unstable neurons, their activation, and the wider state."""
        lower, upper = self._bounds[feed]
        layer = self._dense(self._values[feed], open_, node.name)
        self._origin[layer] = (feed, open_)
        self._reduced_bounds[layer] = (lower[open_], upper[open_])
        self._nodes.append(Node(node.op, (layer,), (len(open_),), node.name))
        unit = len(self._nodes) - 1
        size = len(self._reach) + len(open_)
        self._nodes.append(Node(ops.Concat(0), (self._state, unit), (size,), "state"))
        self._state = len(self._nodes) - 1
        self._reach = np.concatenate(
            [self._reach, np.maximum(np.abs(lower[open_]), np.abs(upper[open_]))]
        )

    def _dense(self, value: _Value, rows: np.ndarray, name: str) -> int:
        expression = value.expression
        weight = widen(csr_array(expression.matrix[rows]), len(self._reach)).toarray()
        op = ops.Linear(weight, expression.constant[rows])
        self._nodes.append(Node(op, (self._state,), (len(rows),), name))
        self._slack[len(self._nodes) - 1] = value.error[rows]
        return len(self._nodes) - 1

    def finish(self) -> ReducedNetwork:
        """Close with the output layer."""
        last = len(self._source.nodes) - 1
        self._dense(self._values[last], np.arange(self._source.output_size), "output")
        network = Network(
            tuple(self._nodes), b"", self._source.digest, None, source=self._source.source
        )
        return ReducedNetwork(network, self._origin, self._reduced_bounds, self._slack, self._reach)
