"""Tighter pre-activation bounds from the triangle relaxation, one linear program a side.

Layer by layer: the part of the network in front of a layer is one linear program, held in a
solver; each undecided neuron is minimised and maximised by changing the costs in place. A bound is
computed from the solver's duals, never taken from its objective, so neither tolerance nor an early
stop can make it wrong; bounds are only ever tightened, and each layer uses the tightened ones of
the layers before it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from closegap.core.budget import Budget
from closegap.core.errors import EncodingError
from closegap.core.numerics import MIP_FEASIBILITY
from closegap.encode import Bounds, EncodedLayer, EncodeOptions, encode_layer
from closegap.graph import ops
from closegap.graph.network import Network
from closegap.mip.certify import certified_lower_bound
from closegap.mip.model import LinearSession, SolveOptions, Status
from closegap.mip.registry import choose
from closegap.specs.query import Query

__all__ = ["TightenOptions", "Tightened", "lp_tighten", "undecided"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class TightenOptions:
    """How much to tighten.

    Attributes:
        neuron_seconds: most time for one linear program.
        encode: how the programs are written; always relaxed.
    """

    neuron_seconds: float = 2.0
    encode: EncodeOptions = field(default_factory=EncodeOptions)


@dataclass(frozen=True, eq=False)
class Tightened:
    """Bounds that hold where the given ones did, nowhere looser.

    Attributes:
        bounds: by pre-activation node, `[N]` each.
        programs: linear programs solved.
        improved: neurons with a tighter bound on some side.
        decided: neurons that were undecided and are not any more.
        complete: False where the deadline or an interruption came first.
        seconds: wall-clock.
        detail: one line; why some layer was left out.
    """

    bounds: dict[int, tuple[Array, Array]]
    programs: int
    improved: int
    decided: int
    complete: bool
    seconds: float
    detail: str = ""


def undecided(network: Network, node: int, lower: Array, upper: Array) -> NDArray[np.bool_]:
    """Which entries of a pre-activation node an activation still has to relax, bool `[N]`."""
    open_entries = np.zeros(len(lower), dtype=bool)
    for reader in network.consumers[node]:
        rule = _UNDECIDED.get(type(network.nodes[reader].op))
        if rule is not None:
            open_entries |= rule(lower, upper, network.nodes[node].shape)
    return open_entries


def lp_tighten(
    query: Query,
    bounds: Bounds,
    budget: Budget,
    options: TightenOptions | None = None,
    interrupted: Callable[[], bool] | None = None,
) -> Tightened:
    """Tighten every undecided pre-activation by two linear programs.

    A neuron whose sign is decided by the first one is not asked for the second. Layers whose
    value is affine over a box are left as they are: interval bounds are exact there.

    Args:
        query: its network and region; the property plays no part.
        bounds: sound bounds of every pre-activation.
        budget: deadline, threads, seed.
        options: see `TightenOptions`.
        interrupted: polled between and inside programs.

    Raises:
        MissingDependencyError: no solver for linear programs is installed.
    """
    begun = time.monotonic()
    work = _Tightening(query, options or TightenOptions(), budget, interrupted)
    result = {k: (low.copy(), high.copy()) for k, (low, high) in bounds.items()}
    notes: list[str] = []
    for node in query.network.pre_activations:
        try:
            result[node] = work.layer(node, result)
        except EncodingError as error:
            notes.append(str(error))
        if work.out_of_time:
            break
    before = [undecided(query.network, n, *bounds[n]) for n in bounds]
    after = [undecided(query.network, n, *result[n]) for n in bounds]
    moved = [(result[n][0] > bounds[n][0]) | (result[n][1] < bounds[n][1]) for n in bounds]
    return Tightened(
        bounds=result,
        programs=work.programs,
        improved=sum(int(m.sum()) for m in moved),
        decided=sum(int((b & ~a).sum()) for b, a in zip(before, after, strict=True)),
        complete=not work.out_of_time,
        seconds=time.monotonic() - begun,
        detail="; ".join(notes),
    )


class _Tightening:
    """The programs of one query, and what they cost."""

    def __init__(
        self,
        query: Query,
        options: TightenOptions,
        budget: Budget,
        interrupted: Callable[[], bool] | None,
    ) -> None:
        self._query = query
        self._options = options
        self._budget = budget
        self._interrupted = interrupted
        self._solver, _ = choose("lp")
        self.programs = 0

    @property
    def out_of_time(self) -> bool:
        stop = self._interrupted is not None and self._interrupted()
        return stop or self._budget.expired

    def layer(self, node: int, bounds: Bounds) -> tuple[Array, Array]:
        """The node's bounds, tightened as far as the time allows."""
        lower, upper = bounds[node]
        entries = np.flatnonzero(undecided(self._query.network, node, lower, upper))
        if not len(entries) or self.out_of_time:
            return lower, upper
        settings = replace(self._options.encode, relax=True, deadline=self._budget.deadline)
        layer = encode_layer(self._query, bounds, node=node, options=settings)
        if layer.model.rows == 0:
            return lower, upper
        readers = [self._query.network.nodes[c].op for c in self._query.network.consumers[node]]
        sign_suffices = all(isinstance(op, ops.Relu | ops.LeakyRelu | ops.Sign) for op in readers)
        program = _LayerProgram(layer, self._solver.session(layer.model), sign_suffices)
        for entry in entries:
            if self.out_of_time:
                break
            self._neuron(program, int(entry), lower, upper)
        return lower, upper

    def _neuron(self, program: _LayerProgram, entry: int, lower: Array, upper: Array) -> None:
        """Tighten one entry in place, the side that decides it more likely first."""
        lower_first = -lower[entry] <= upper[entry]
        for lower_side in (lower_first, not lower_first):
            sign = 1.0 if lower_side else -1.0
            bound = program.least(entry, sign, self._solve_options())
            self.programs += 1
            if lower_side:
                lower[entry] = min(max(lower[entry], bound), upper[entry])
            else:
                upper[entry] = max(min(upper[entry], -bound), lower[entry])
            decided = program.sign_suffices and (lower[entry] >= 0 or upper[entry] <= 0)
            if decided or self.out_of_time:
                return

    def _solve_options(self) -> SolveOptions:
        return SolveOptions(
            time_limit=min(self._options.neuron_seconds, self._budget.remaining),
            threads=self._budget.threads,
            seed=self._budget.seed,
            interrupted=self._interrupted,
        )


class _LayerProgram:
    """The relaxation in front of a layer, and the layer's value as costs.

    Attributes:
        sign_suffices: a neuron whose sign is known needs no tighter bounds.
    """

    def __init__(self, layer: EncodedLayer, session: LinearSession, sign_suffices: bool) -> None:
        self.sign_suffices = sign_suffices
        self._layer = layer
        self._session = session
        model = layer.model
        reach = np.maximum(np.abs(model.lower), np.abs(model.upper))
        width = layer.value.matrix.shape[1]
        magnitude = abs(layer.value.matrix) @ reach[:width] + np.abs(layer.value.constant)
        #: Composing the layers in float64 moved each entry by far less than this.
        self._rounding = MIP_FEASIBILITY * (1.0 + magnitude)

    def least(self, entry: int, sign: float, options: SolveOptions) -> float:
        """A certified lower bound of `sign * entry`; minus infinity where there is none."""
        value = self._layer.value
        cost = np.zeros(self._layer.model.columns)
        row = slice(value.matrix.indptr[entry], value.matrix.indptr[entry + 1])
        cost[value.matrix.indices[row]] = sign * value.matrix.data[row]
        constant = sign * float(value.constant[entry])
        self._session.set_costs(cost, constant)
        claim = self._session.solve(options)
        if claim.row_duals is None or claim.status is Status.INFEASIBLE:
            return -math.inf
        model = replace(self._layer.model, cost=cost, constant=constant)
        certified = certified_lower_bound(model, claim.row_duals)
        return certified - float(self._rounding[entry])


def _crosses_zero(lower: Array, upper: Array, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    return np.asarray((lower < 0) & (upper > 0))


def _touches_zero(lower: Array, upper: Array, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    return np.asarray((lower <= 0) & (upper >= 0))


def _everywhere(lower: Array, upper: Array, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    return np.asarray(lower < upper)


def _contested(lower: Array, upper: Array, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Entries that can be the greatest of a window that has another one."""
    low, high = (b.reshape(-1, shape[-1]) for b in (lower, upper))
    best = low.max(axis=1, keepdims=True)
    possible = (high > best) | (low == best)
    return np.asarray(possible & (possible.sum(axis=1, keepdims=True) > 1)).reshape(-1)


_UNDECIDED: dict[type, Callable[[Array, Array, tuple[int, ...]], NDArray[np.bool_]]] = {
    ops.Relu: _crosses_zero,
    ops.LeakyRelu: _crosses_zero,
    ops.Sign: _touches_zero,
    ops.Max: _contested,
    ops.Sigmoid: _everywhere,
    ops.Tanh: _everywhere,
}
