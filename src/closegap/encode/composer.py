"""Walks the graph and keeps every node's value as an affine expression of the columns."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from closegap.core.errors import EncodingError
from closegap.core.numerics import FLOAT64_UNDERFLOW, SIGN_GAP, TINY
from closegap.encode.affine import affine_map
from closegap.encode.builder import ModelBuilder
from closegap.encode.expression import Expression, multiply, place, product_terms, widen
from closegap.encode.inputs import add_inputs
from closegap.encode.rules import RULES, Site
from closegap.encode.units import CopyUnits, Units
from closegap.graph import ops
from closegap.graph.entries import affine_entries
from closegap.graph.network import Network
from closegap.specs.region import Region

__all__ = ["Bounds", "Composer", "EncodeOptions", "PhaseMap", "Purpose", "ancestors"]

Array: TypeAlias = NDArray[np.float64]
#: Sound, finite lower and upper bounds `[N]` of every pre-activation node, by node index.
Bounds: TypeAlias = Mapping[int, tuple[Array, Array]]
#: What products that underflow may take from a value; far below any tolerance of a solver.
_MOST_VANISHED = TINY * TINY
#: By pre-activation node, int8 `[N]`: +1 on, -1 off, 0 free.
PhaseMap: TypeAlias = Mapping[int, NDArray[np.int8]]


class Purpose(StrEnum):
    """What the model is for; it decides on which side of the truth rounding may fall."""

    PROOF = "proof"
    ATTACK = "attack"


@dataclass(frozen=True)
class EncodeOptions:
    """How to write a query as a program.

    Attributes:
        relax: leave integrality out: every undecided unit by its tightest linear relaxation (the
            triangle of a ReLU).
        purpose: a proof's model holds every point of the region; an attack's model keeps clear
            of the discontinuity of signs.
        fill: a node's expression is given columns of its own when composing it further would make
            more than this many times the entries that columns would need. Composed rows are few
            and long, which suits simplex solvers; past that ratio they are too long.
        entries: the largest number of matrix entries any step may make.
        deadline: on `time.monotonic()`'s clock; checked before every node.
    """

    relax: bool = False
    purpose: Purpose = Purpose.PROOF
    fill: float = 4.0
    entries: int = 20_000_000
    deadline: float = math.inf

    @property
    def sign_gap(self) -> float:
        """See `Site.sign_gap`."""
        return SIGN_GAP if self.purpose is Purpose.ATTACK else -SIGN_GAP


class Composer:
    """Builds columns and rows node by node.

    Args:
        network: the graph.
        region: where its input lies.
        bounds: of every pre-activation that is reached.
        options: see `EncodeOptions`.
        phases: fixed activations.
    """

    def __init__(
        self,
        network: Network,
        region: Region,
        bounds: Bounds,
        options: EncodeOptions,
        phases: PhaseMap,
    ) -> None:
        self.builder = ModelBuilder()
        self.units: list[Units] = []
        self.inexact: set[str] = set()
        self._network = network
        self._bounds = bounds
        self._options = options
        self._phases = phases
        self.inputs = add_inputs(region, self.builder, self.units, self.inexact)
        identity = self.builder.picked(self.inputs)
        self._values = {0: Expression(identity, np.zeros(len(self.inputs)))}
        self._vanished = {0: 0.0}

    def value(self, target: int) -> Expression:
        """The value of a node, encoding what it needs and was not encoded yet.

        Raises:
            EncodingError: a bound is missing or not finite, a step is too large, time is up, or
                products that underflow could matter.
        """
        for index in ancestors(self._network, target):
            if index not in self._values:
                self._values[index] = self._step(index)
        return self._values[target]

    def _step(self, index: int) -> Expression:
        if time.monotonic() >= self._options.deadline:
            raise EncodingError(f"time was up while node {index} was being written out")
        node = self._network.nodes[index]
        if not node.is_activation:
            return self._affine(index)
        rule = RULES[type(node.op)]
        self._vanished[index] = self._vanished[node.inputs[0]] + self._least(1)
        return rule(node.op, self._values[node.inputs[0]], self._site(node.inputs[0]))

    def _site(self, node: int) -> Site:
        shape = self._network.nodes[node].shape
        size = self._network.nodes[node].size
        if node not in self._bounds:
            raise EncodingError(f"no bounds of node {node}, which feeds an activation")
        lower, upper = (np.asarray(b, dtype=np.float64).reshape(-1) for b in self._bounds[node])
        if len(lower) != size or len(upper) != size:
            raise EncodingError(f"bounds of node {node} have {len(lower)} entries, not {size}")
        if not (np.isfinite(lower).all() and np.isfinite(upper).all()):
            raise EncodingError(f"bounds of node {node} are not finite")
        phase = self._phases.get(node, np.zeros(size, dtype=np.int8)).reshape(-1)
        return Site(
            builder=self.builder,
            units=self.units,
            node=node,
            shape=shape,
            lower=np.minimum(lower, upper),
            upper=np.maximum(lower, upper),
            phase=phase,
            relax=self._options.relax,
            sign_gap=self._options.sign_gap,
            inexact=self.inexact,
        )

    def _affine(self, index: int) -> Expression:
        node = self._network.nodes[index]
        parents = [self._network.nodes[p] for p in node.inputs]
        self._check_size(affine_entries(node, parents), index)
        matrices, constant = affine_map(node, parents)
        self._count_vanished(index, matrices)
        used = self._used_rows(index)
        terms = []
        for weights, parent in zip(matrices, node.inputs, strict=True):
            needed = weights if used.all() else _keep_rows(weights, used)
            value = self._operand(needed, parent)
            terms.append(multiply(needed, value.matrix))
            constant = constant + needed @ value.constant
        total = widen(terms[0], self.builder.columns)
        for term in terms[1:]:
            total = csr_array(total + widen(term, self.builder.columns))
        self._check_size(total.nnz, index)
        return Expression(total, constant)

    def _count_vanished(self, index: int, matrices: Sequence[csr_array]) -> None:
        """Bound what products that underflow, here and before, take from the node's values.

        Later weights may be as large as these are small.
        """
        node, total = self._network.nodes[index], 0.0
        for weights, parent in zip(matrices, node.inputs, strict=True):
            gain = float(abs(weights).sum(axis=1).max(initial=0.0))
            total += gain * self._vanished[parent] + self._least(weights.shape[1])
        if not total <= _MOST_VANISHED:
            raise EncodingError(
                f"node {index} ('{node.name}'): products of weights are below float64's range"
            )
        self._vanished[index] = total

    def _least(self, terms: int) -> float:
        """What underflow takes from a sum of so many terms in every column."""
        reach = np.maximum(np.abs(self.builder.lower), np.abs(self.builder.upper))
        return terms * FLOAT64_UNDERFLOW * (1.0 + float(reach.sum()))

    def _used_rows(self, index: int) -> NDArray[np.bool_]:
        """False for neurons that only feed ReLUs which are off: nobody reads them."""
        readers = [self._network.nodes[c].op for c in self._network.consumers[index]]
        size = self._network.nodes[index].size
        if not readers or not all(isinstance(op, ops.Relu) for op in readers):
            return np.ones(size, dtype=bool)
        off = np.asarray(self._site(index).upper <= 0)
        # a phase that contradicts the bounds still needs its row
        phase = self._phases.get(index, np.zeros(size, dtype=np.int8)).reshape(-1)
        return np.asarray(~off | (phase != 0))

    def _operand(self, weights: csr_array, parent: int) -> Expression:
        """The parent's value, in columns of its own where composing would fill the rows."""
        value = self._values[parent]
        named = weights.nnz + value.matrix.nnz
        terms = product_terms(weights, value.matrix)
        if terms <= self._options.fill * named:
            return value
        entries = None
        if terms <= self._options.entries:
            entries = multiply(weights, value.matrix).nnz
        if entries is not None and entries <= self._options.fill * named:
            return value
        self._values[parent] = self._named(value, weights, parent)
        return self._values[parent]

    def _named(self, value: Expression, weights: csr_array, parent: int) -> Expression:
        """The same value, with a column for every entry that is read and not one already."""
        read = np.zeros(len(value), dtype=bool)
        read[weights.indices] = True
        long = np.flatnonzero(read & (np.diff(value.matrix.indptr) > 1))
        part = value.rows(long)
        low, high = part.span(self.builder.lower, self.builder.upper)
        columns = self.builder.add_columns(low, high)
        self.builder.add_rows(
            self.builder.picked(columns) - self.builder.wide(part), part.constant, part.constant
        )
        self.units.append(CopyUnits(parent, part, columns))
        other = np.ones(len(value), dtype=bool)
        other[long] = False
        shape = (len(value), self.builder.columns)
        kept = _keep_rows(widen(value.matrix, self.builder.columns), other)
        matrix = csr_array(kept + place(long, columns, 1.0, shape))
        return Expression(matrix, np.where(other, value.constant, 0.0))

    def _check_size(self, entries: int, index: int) -> None:
        if entries > self._options.entries:
            name = self._network.nodes[index].name
            raise EncodingError(
                f"node {index} ('{name}') has {entries} coefficients when written out, "
                f"more than {self._options.entries}"
            )


def ancestors(network: Network, target: int) -> Iterable[int]:
    """The nodes that `target` depends on, itself included, in topological order."""
    wanted = {target}
    for index in range(target, -1, -1):
        if index in wanted:
            wanted.update(network.nodes[index].inputs)
    return sorted(wanted)


def _keep_rows(matrix: csr_array, kept: NDArray[np.bool_]) -> csr_array:
    """The matrix with the other rows emptied."""
    counts = np.diff(matrix.indptr)
    entries = np.repeat(kept, counts)
    indptr = np.concatenate([[0], np.cumsum(np.where(kept, counts, 0))])
    return csr_array((matrix.data[entries], matrix.indices[entries], indptr), shape=matrix.shape)
