"""Multi-neuron constraints for branch and bound: groups chosen where the roots' bounds lose most.

Of each group's hull only rows are kept that cut off the point a root's bound rests on; the roots
climb with them, and what they rest on then is cut off again.

Source: Ferrari et al., Complete Verification via Multi-Neuron Relaxation Guided Branch-and-Bound,
ICLR 2022; hulls in vertex form (`bounds/multineuron`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from closegap.bounds.backward import BackwardPass
from closegap.bounds.multineuron.build import make_hulls, separating_cuts
from closegap.bounds.multineuron.cover import correlated_pairs, sparse_cover
from closegap.bounds.multineuron.cuts import HullCuts
from closegap.bounds.multineuron.hulls import VertexHulls
from closegap.bounds.multineuron.resting import RestingPoint, resting_point
from closegap.bounds.multineuron.vertices import GREATEST_GROUP
from closegap.bounds.optimise import AscentOptions, MixedPrecision
from closegap.bounds.records import Parameters
from closegap.core.budget import Budget
from closegap.core.errors import OptionError
from closegap.verify.bab.bounder import DomainBatch, DomainBounder
from closegap.verify.bab.constraints import DomainConstraints
from closegap.verify.bab.problem import Layer, SplitProblem
from closegap.verify.bab.units import is_hinge

#: A tree with fewer open nodes, relative to `after`, may close soon whatever its last children did.
_NARROW = 1 / 8

__all__ = ["MultiNeuronOptions", "RootCuts", "multi_neuron_cuts"]


@dataclass(frozen=True)
class MultiNeuronOptions:
    """Which groups of neurons are bounded together.

    Attributes:
        size: neurons a group, two or three.
        units: of each layer, the neurons considered: those where the roots' bounds lose most.
        groups: a layer, at most.
        rows: of each layer in each round, all roots together, at most (one for each root at least).
        rounds: of rows that cut off what the roots' bounds rest on.
        octahedra: climbing on the slopes of each sum and difference; `None` for plain CROWN.
        climb: on the roots after each round; short steps, for the slopes are good already.
        after: all this begins when the tree has so many nodes (about as many as would take as
            long: 256 in batches of 64), unless it is about to close; `None` for never.

    Raises:
        OptionError: groups of another size.
    """

    size: int = 3
    units: int = 25
    groups: int = 50
    rows: int = 100
    rounds: int = 2
    octahedra: AscentOptions | None = None
    climb: AscentOptions = field(
        default_factory=lambda: AscentOptions(iterations=40, slope_rate=0.05, patience=40)
    )
    after: int | None = None

    def __post_init__(self) -> None:
        if not 2 <= self.size <= GREATEST_GROUP:
            raise OptionError(f"groups have 2 to {GREATEST_GROUP} neurons, got {self.size}")

    def due(self, nodes: int, open_nodes: int, closing: float) -> bool:
        """True iff a tree is expected to grow by twice what the constraints cost, or more.

        Where a child is closed with probability p > 1/2, an open node has `2 / (2p - 1)`
        descendants; where p is less, their number has no mean.

        Args:
            nodes: of the tree.
            open_nodes: of these.
            closing: share of the last children that were closed.
        """
        if self.after is None or nodes < self.after:
            return False
        return open_nodes >= self.after * max(_NARROW, 2 * closing - 1)


@dataclass(frozen=True, eq=False)
class RootCuts:
    """Rows for B roots.

    Attributes:
        constraints: on the whole region; none where nothing could be cut off.
        starts: the roots' warm starts, which know them, `[B, width]`.
        lower: proved lower bounds under them, `[B]`.
    """

    constraints: DomainConstraints
    starts: NDArray[np.float32]
    lower: Float[np.ndarray, "B"]

    def extended(
        self, bare: NDArray[np.float32], place: Int[np.ndarray, "M"]
    ) -> NDArray[np.float32]:
        """Warm starts without multipliers of rows, `[M, width without]`, with those of a root.

        Args:
            bare: the starts.
            place: in `starts`, of the root each descends from.
        """
        return np.concatenate([bare, self.starts[place, bare.shape[1] :]], axis=1)


def multi_neuron_cuts(
    problem: SplitProblem,
    roots: Int[np.ndarray, "B"],
    start: NDArray[np.float32],
    options: MultiNeuronOptions,
    budget: Budget,
) -> RootCuts:
    """Rows that cut off what the roots' bounds rest on.

    Args:
        problem: network, region and bounds.
        roots: numbers of those that the groups shall help.
        start: their warm starts without constraints, `[B, width]`.
        options: how many, how large.
        budget: what it cuts short is looser.
    """
    none = np.zeros((len(roots), 0), np.int64)
    batch = DomainBatch(roots, none, none, start)
    constraints = DomainConstraints()
    bounder = DomainBounder(problem, options.climb)
    hulls: tuple[VertexHulls, ...] = ()
    lower = np.full(len(roots), -np.inf)
    for number in range(options.rounds):
        known = bounder.parameters(batch) or Parameters()
        rest = _resting_point(problem, torch.as_tensor(roots), known, constraints)
        if not number:
            hulls = _hulls(problem, rest, options, budget)
        most = max(1, options.rows // len(roots))
        found = [_separating(held, rest, most) for held in hulls]
        fresh = [cuts for cuts in found if cuts is not None]
        if not fresh:
            break
        constraints = DomainConstraints.of(*constraints.exact, *fresh)
        bounder = DomainBounder(problem, options.climb, constraints)
        batch = replace(batch, payload=bounder.pack(known, len(roots)))
        result = bounder.bound(batch, budget)
        batch = replace(batch, payload=result.payload)
        lower = np.fmax(lower, result.lower)
        if budget.expired or (lower > 0).all():
            break
    assert batch.payload is not None
    return RootCuts(constraints, batch.payload, lower)


def _hulls(
    problem: SplitProblem, rest: RestingPoint, options: MultiNeuronOptions, budget: Budget
) -> tuple[VertexHulls, ...]:
    """The hulls of groups, layer by layer."""
    exact = BackwardPass(problem.exact, problem.bounds, problem.values, problem.slack)
    optimiser = None
    if options.octahedra is not None:
        optimiser = MixedPrecision(problem.search, problem.search_region, options.octahedra)
    found = []
    for layer in _hinges(problem):
        groups = _groups(problem, layer, rest, options)
        if len(groups) and not budget.expired:
            found.append(
                make_hulls(exact, problem.exact_region, layer.activation, groups, budget, optimiser)
            )
    return tuple(found)


def _separating(hulls: VertexHulls, rest: RestingPoint, most: int) -> HullCuts | None:
    return separating_cuts(
        hulls,
        rest.values[hulls.feed],
        rest.values[hulls.activation],
        rest.incoming[hulls.activation].abs(),
        most,
    )


def _groups(
    problem: SplitProblem, layer: Layer, rest: RestingPoint, options: MultiNeuronOptions
) -> np.ndarray:
    """Groups of one layer, flat indices of its node, `[G, k]`."""
    interval = problem.bounds[layer.feed]
    lower, upper = (side[0].flatten()[layer.indices] for side in (interval.lower, interval.upper))
    incoming = rest.incoming[layer.activation][:, layer.indices]
    chord = upper / (upper - lower)
    losses = (incoming.clamp(max=0) * lower * chord).amax(dim=0)
    losses = torch.where(torch.isfinite(losses), losses, 0.0)
    best = losses.argsort(descending=True)[: options.units]
    best = best[losses[best] > 0]
    if len(best) < options.size:
        return np.zeros((0, options.size), np.int64)
    neurons = layer.indices[best]
    pairs = correlated_pairs(_as_inputs(problem, layer.feed, neurons), losses[best].numpy())
    cover = sparse_cover(pairs, options.size, options.groups)
    return np.asarray(neurons.numpy()[cover])


def _as_inputs(problem: SplitProblem, feed: int, neurons: Tensor) -> np.ndarray:
    """Each neuron's lower line as a function of the input, in units of the inputs' ranges."""
    shape = problem.exact.network.nodes[feed].shape
    rows = torch.zeros(len(neurons), problem.exact.network.nodes[feed].size, dtype=torch.float64)
    rows[torch.arange(len(neurons)), neurons] = 1.0
    with torch.no_grad():
        linear = BackwardPass(problem.exact, problem.bounds).run(
            feed, rows.reshape(1, len(neurons), *shape)
        )
    region = problem.exact_region
    range_ = (region.upper - region.lower).flatten()
    return np.asarray((linear.coefficients[0].flatten(1) * range_).numpy())


def _resting_point(
    problem: SplitProblem, roots: Tensor, known: Parameters, constraints: DomainConstraints
) -> RestingPoint:
    """Of every row of every root."""
    near = {i: b.to(torch.float32) for i, b in problem.bounds.items()}
    bounder = BackwardPass(problem.search, near, constraints=constraints.search)
    hinges = [layer.activation for layer in _hinges(problem)]
    rows = problem.rows[roots].float()
    return resting_point(bounder, problem.search_region, rows, known, hinges)


def _hinges(problem: SplitProblem) -> list[Layer]:
    nodes = problem.exact.network.nodes
    return [layer for layer in problem.layers if is_hinge(nodes[layer.activation].op)]
