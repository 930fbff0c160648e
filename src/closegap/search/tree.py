"""The tree of subdomains as a struct of arrays: one row a node, no Python objects.

Legend: B nodes handled at a time, depth along the path. Arrays grow by doubling. A node's path is
read by walking `parent`, for many nodes at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import IntEnum
from fractions import Fraction
from typing import TypeVar

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

__all__ = ["Accounting", "NodeState", "Paths", "Tree"]

Scalar = TypeVar("Scalar", bound=np.generic)


class NodeState(IntEnum):
    """What became of a node."""

    OPEN = 0
    SPLIT = 1
    CLOSED = 2
    STUCK = 3


@dataclass(eq=False)
class _Columns:
    """One array for each property of a node; `[capacity]`."""

    parent: NDArray[np.int32]
    depth: NDArray[np.int32]
    unit: NDArray[np.int32]
    sign: NDArray[np.int8]
    point: NDArray[np.float64]
    lower: NDArray[np.float64]
    state: NDArray[np.int8]
    root: NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Paths:
    """All splits above each of B nodes, deepest first: `sign (value of unit - point) >= 0`.

    Attributes:
        units: padded with -1.
        signs: +1 or -1; padded with 0.
        points: padded with 0.
    """

    units: Int[np.ndarray, "B depth"]
    signs: Int[np.ndarray, "B depth"]
    points: Float[np.ndarray, "B depth"]


@dataclass(frozen=True)
class Accounting:
    """Where every node went. `created == split + closed + open + stuck` always holds.

    Attributes:
        weight: sum over leaves of 2^-depth, one for each root, exactly; equal to the number of
            roots iff no subproblem was lost.
        open_share: see `Tree`.
    """

    created: int
    split: int
    closed: int
    open: int
    stuck: int
    depth: int
    weight: Fraction
    roots: int
    open_share: float = 1.0

    @property
    def balanced(self) -> bool:
        """True iff every subproblem is accounted for."""
        total = self.split + self.closed + self.open + self.stuck
        return self.created == total and self.weight == self.roots


class Tree:
    """Nodes, their splits and their bounds. A split makes two children: sign +1 and -1."""

    def __init__(self, capacity: int = 1024) -> None:
        self._size = 0
        self._roots = 0
        self._data = _Columns(
            parent=np.full(capacity, -1, np.int32),
            depth=np.zeros(capacity, np.int32),
            unit=np.full(capacity, -1, np.int32),
            sign=np.zeros(capacity, np.int8),
            point=np.zeros(capacity),
            lower=np.full(capacity, -np.inf),
            state=np.zeros(capacity, np.int8),
            root=np.zeros(capacity, np.int32),
        )

    def __len__(self) -> int:
        return self._size

    @property
    def nbytes(self) -> int:
        """Bytes of all columns."""
        return sum(getattr(self._data, column.name).nbytes for column in fields(_Columns))

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Every column, to be kept: copies, `[nodes]`."""
        return {c.name: getattr(self._data, c.name)[: self._size].copy() for c in fields(_Columns)}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> Tree:
        """The tree whose `arrays()` these are.

        Raises:
            ValueError: they are no tree: a column is missing, or its nodes do not add up.
        """
        tree = cls(capacity=1)
        first = arrays.get("state")
        size = 0 if first is None else len(first)
        for column in fields(_Columns):
            kept, known = arrays.get(column.name), getattr(tree._data, column.name)
            if kept is None or kept.shape != (size,) or kept.dtype != known.dtype:
                raise ValueError(f"the tree's column {column.name} is missing or damaged")
            setattr(tree._data, column.name, kept.copy())
        tree._size = size
        tree._roots = int((tree._data.parent < 0).sum())
        tree._require_consistent()
        return tree

    def _require_consistent(self) -> None:
        """Every split node has two children of opposite sign, and nothing else has any."""
        data, inner = self._data, np.flatnonzero(self._data.parent >= 0)
        parent, split = data.parent[inner], np.flatnonzero(data.state == NodeState.SPLIT)
        pairs = inner[np.argsort(parent, kind="stable")].reshape(-1, 2)
        alike = all(
            (column[pairs[:, 0]] == column[pairs[:, 1]]).all()
            for column in (data.unit, data.point, data.parent)
        )
        if not (
            alike
            and (parent < inner).all()
            and np.array_equal(np.unique(parent), split)
            and (data.sign[pairs] == [1, -1]).all()
            and (data.root[inner] == data.root[parent]).all()
            and (data.depth[inner] == data.depth[parent] + 1).all()
            and not np.isnan(data.lower).any()
            and self.accounting().balanced
        ):
            raise ValueError("the tree's nodes do not add up")

    def add_roots(self, lower: Float[np.ndarray, "B"]) -> Int[np.ndarray, "B"]:
        """Add roots with their bounds; returns their ids."""
        new = self._grow(len(lower))
        self._data.lower[new] = lower
        self._data.root[new] = self._roots + np.arange(len(lower))
        self._roots += len(lower)
        return new

    def plant(self, roots: int) -> None:
        """Add roots without bounds, unless there are nodes already."""
        if not self._size:
            self.add_roots(np.full(roots, -np.inf))

    def split(
        self,
        nodes: Int[np.ndarray, "B"],
        units: Int[np.ndarray, "B"],
        points: Float[np.ndarray, "B"] | None = None,
    ) -> Int[np.ndarray, "children"]:
        """Split each open node at its unit: the value is at least, or at most, the point.

        Args:
            nodes: open nodes.
            units: one for each.
            points: one for each; `None` for zeros.

        Returns:
            ids of the children `[2 B]`: all with sign +1 first, then all with sign -1.

        Raises:
            ValueError: a node is not open.
        """
        data = self._data
        if (data.state[nodes] != NodeState.OPEN).any():
            raise ValueError("only open nodes can be split")
        both, again = np.concatenate([nodes, nodes]), np.concatenate([units, units])
        cuts = 0.0 if points is None else np.concatenate([points, points])
        signs = np.repeat(np.array([1, -1], np.int8), len(nodes))
        new = self._grow(len(both))  # before anything changes: memory may end here
        data = self._data
        data.state[nodes] = NodeState.SPLIT
        data.parent[new] = both
        data.depth[new] = data.depth[both] + 1
        data.unit[new] = again
        data.point[new] = cuts
        data.sign[new] = signs
        data.lower[new] = data.lower[both]
        data.root[new] = data.root[both]
        return new

    def raise_lower(self, nodes: Int[np.ndarray, "B"], lower: Float[np.ndarray, "B"]) -> None:
        """Keep the better of the known and the new bounds; a child inherits its parent's."""
        self._data.lower[nodes] = np.fmax(self._data.lower[nodes], lower)

    def close(self, nodes: Int[np.ndarray, "B"]) -> None:
        """The property is proved on these open nodes."""
        self._leave(nodes, NodeState.CLOSED)

    def give_up(self, nodes: Int[np.ndarray, "B"]) -> None:
        """Nothing is left to split on these open nodes, and they are not proved."""
        self._leave(nodes, NodeState.STUCK)

    def _leave(self, nodes: Int[np.ndarray, "B"], state: NodeState) -> None:
        if (self._data.state[nodes] != NodeState.OPEN).any():
            raise ValueError("only open nodes can change their state")
        self._data.state[nodes] = state

    def open_nodes(self) -> Int[np.ndarray, "B"]:
        """Ids of the open nodes."""
        return np.asarray(np.flatnonzero(self._data.state[: self._size] == NodeState.OPEN))

    def is_open(self, nodes: Int[np.ndarray, "B"]) -> Bool[np.ndarray, "B"]:
        """Which nodes are open."""
        return np.asarray(self._data.state[nodes] == NodeState.OPEN)

    def lower(self, nodes: Int[np.ndarray, "B"]) -> Float[np.ndarray, "B"]:
        """Proved bounds."""
        return np.asarray(self._data.lower[nodes])

    def root(self, nodes: Int[np.ndarray, "B"]) -> Int[np.ndarray, "B"]:
        """Number of the root each node descends from."""
        return np.asarray(self._data.root[nodes].astype(np.int64))

    def signs(self, nodes: Int[np.ndarray, "B"]) -> Int[np.ndarray, "B"]:
        """Of the last split above each node: +1 or -1; 0 for roots."""
        return np.asarray(self._data.sign[nodes].astype(np.int64))

    def least_lower(self) -> Float[np.ndarray, "roots"]:
        """For every root the least bound of its leaves that are not proved; infinity if none."""
        least = np.full(self._roots, np.inf)
        state = self._data.state[: self._size]
        left = np.flatnonzero((state == NodeState.OPEN) | (state == NodeState.STUCK))
        np.minimum.at(least, self._data.root[left], self._data.lower[left])
        return least

    def recent_gain(self, most: int) -> float:
        """What the newest nodes gained on their parents' bounds on average; 0 if there are none.

        What lies above zero does not count.
        """
        nodes = np.arange(max(0, self._size - most), self._size)
        nodes = nodes[self._data.parent[nodes] >= 0]
        before = self._data.lower[self._data.parent[nodes]]
        after = np.minimum(self._data.lower[nodes], 0.0)
        known = np.isfinite(before)
        return float(np.maximum(after - before, 0.0)[known].mean()) if known.any() else 0.0

    def paths(self, nodes: Int[np.ndarray, "B"]) -> Paths:
        """All splits above each node."""
        data = self._data
        depth = int(data.depth[nodes].max(initial=0))
        units = np.full((len(nodes), depth), -1, np.int64)
        signs = np.zeros((len(nodes), depth), np.int64)
        points = np.zeros((len(nodes), depth))
        current = nodes.astype(np.int64)
        for level in range(depth):
            inside = current >= 0
            at = current[inside]
            units[inside, level] = data.unit[at]
            signs[inside, level] = data.sign[at]
            points[inside, level] = data.point[at]
            current = np.where(inside, data.parent[np.maximum(current, 0)], -1)
        return Paths(units, signs, points)

    @property
    def open_share(self) -> float:
        """How much of all trees is open: a node counts for half of its parent, a root for one."""
        depth = self._data.depth[self.open_nodes()].astype(np.float64)
        return float((0.5**depth).sum()) / max(1, self._roots)

    def accounting(self) -> Accounting:
        """Count the nodes, and sum the leaves' weights exactly."""
        state, depth = self._data.state[: self._size], self._data.depth[: self._size]
        counts = np.bincount(state, minlength=len(NodeState))
        leaves = np.bincount(depth[state != NodeState.SPLIT])
        weight = sum((Fraction(int(n), 2**d) for d, n in enumerate(leaves)), Fraction(0))
        return Accounting(
            created=self._size,
            split=int(counts[NodeState.SPLIT]),
            closed=int(counts[NodeState.CLOSED]),
            open=int(counts[NodeState.OPEN]),
            stuck=int(counts[NodeState.STUCK]),
            depth=int(depth.max(initial=0)),
            weight=weight,
            roots=self._roots,
            open_share=self.open_share,
        )

    def _grow(self, count: int) -> Int[np.ndarray, "B"]:
        first, size = self._size, self._size + count
        capacity = len(self._data.parent)
        if size > capacity:
            wanted = max(size, 2 * capacity)
            longer = {
                c.name: _longer(getattr(self._data, c.name), wanted) for c in fields(_Columns)
            }
            self._data = _Columns(**longer)
        self._size = size
        new = np.arange(first, size)
        self._data.parent[new] = -1
        self._data.unit[new] = -1
        self._data.lower[new] = -np.inf
        return new


def _longer(array: NDArray[Scalar], size: int) -> NDArray[Scalar]:
    longer = np.zeros(size, array.dtype)
    longer[: len(array)] = array
    return longer
