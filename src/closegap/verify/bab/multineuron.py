"""Multi-neuron constraints for branch and bound: groups chosen where domains' bounds lose most.

Of each group's hull only rows are kept that cut off the point a domain's bound rests on; the
domains climb with them, and what they rest on then is cut off again.

Source: Ferrari et al., Complete Verification via Multi-Neuron Relaxation Guided Branch-and-Bound,
ICLR 2022; hulls in vertex form (`bounds/multineuron`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import prod

import numpy as np
import torch
from jaxtyping import Bool, Int
from numpy.typing import NDArray
from torch import Tensor

from closegap.bounds.backward import BackwardPass
from closegap.bounds.constraints import ConstraintSet
from closegap.bounds.multineuron.build import make_hulls, separating_cuts
from closegap.bounds.multineuron.cover import correlated_pairs, sparse_cover
from closegap.bounds.multineuron.cuts import HullCuts
from closegap.bounds.multineuron.hulls import VertexHulls
from closegap.bounds.multineuron.resting import RestingPoint
from closegap.bounds.multineuron.vectors import HullVectors
from closegap.bounds.multineuron.vertices import GREATEST_GROUP
from closegap.bounds.optimise import AscentOptions, MixedPrecision
from closegap.core.budget import Budget
from closegap.core.errors import OptionError
from closegap.verify.bab.bounder import DomainBounder
from closegap.verify.bab.constraints import DomainConstraints
from closegap.verify.bab.domains import DomainBatch, unit_walls
from closegap.verify.bab.owned import OwnedCuts
from closegap.verify.bab.problem import Layer, SplitProblem
from closegap.verify.bab.units import is_hinge

#: A tree with fewer open nodes, relative to `after`, may close soon whatever its last children did.
_NARROW = 1 / 8
#: Fewer neurons are no group.
_SMALLEST = 2
#: Neurons a group where nothing is said: for twice the time of pairs, bounds tighter by far;
#: four take two or three times as long again.
FIRST_SIZE = 3

__all__ = ["FIRST_SIZE", "JointRows", "MultiNeuronOptions", "joint_rows", "widened", "without_rows"]


@dataclass(frozen=True)
class MultiNeuronOptions:
    """Which groups of neurons are bounded together.

    Attributes:
        size: neurons a group, from two to four, fewer in layers that have no more; `None` for
            three; as the tree grows, four are tried now and then, and kept where faster.
        units: of each layer, the neurons considered: those where the bounds lose most.
        groups: a layer, at most.
        rows: of each layer in each round, all domains together, at most (one for each at least).
        rounds: of rows that cut off what the bounds rest on.
        vectors: what rows end with is the start of free weights of each group, `2k` a domain; else
            their weights stay, and each has one multiplier.
        octahedra: climbing on the slopes of each sum and difference; `None` for plain CROWN.
        climb: on domains after each round; short steps, for the slopes are good already.
        after: all this begins when the tree has so many nodes (about as many as would take as
            long: 256 in batches of 64), unless it is about to close; `None` for never.

    Raises:
        OptionError: groups of another size.
    """

    size: int | None = None
    units: int = 25
    groups: int = 50
    rows: int = 100
    rounds: int = 2
    vectors: bool = False
    octahedra: AscentOptions | None = None
    climb: AscentOptions = field(
        default_factory=lambda: AscentOptions(iterations=40, slope_rate=0.05, patience=40)
    )
    after: int | None = None

    def __post_init__(self) -> None:
        if self.size is not None and not 2 <= self.size <= GREATEST_GROUP:
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
class JointRows:
    """Rows that M domains climbed with.

    Attributes:
        constraints: on the whole region, one set a layer; only rows that some domain leans on.
        batch: the domains, with starts that know the rows.
        columns: where each row's multiplier comes from: below `former` it is the one with that
            number in starts from before; the others are new.
        former: how many multipliers those starts have.
    """

    constraints: DomainConstraints
    batch: DomainBatch
    columns: Int[np.ndarray, "K"]
    former: int

    def extended(
        self, starts: NDArray[np.float32], roots: Int[np.ndarray, "N"], rows: int
    ) -> NDArray[np.float32]:
        """Starts of other domains that know these rows, `[N, width]`.

        New rows get the mean of what domains below the same root have, zero where there are none.

        Args:
            starts: that know the rows from before.
            roots: of the domains.
            rows: of a clause (Q).
        """
        known, payload = self.batch.root, self.batch.payload
        assert payload is not None
        bare, old = _parted(starts, rows, self.former)
        learned = _parted(payload, rows, len(self.columns))[1]
        below = (roots[:, None] == known).astype(np.float32)
        below /= np.maximum(below.sum(axis=1, keepdims=True), 1)
        found = np.einsum("nm,mqk->nqk", below, learned)
        stays = self.columns < self.former
        found[:, :, stays] = old[:, :, self.columns[stays]]
        return _whole(bare, found.astype(np.float32))


def joint_rows(
    problem: SplitProblem,
    batch: DomainBatch,
    before: DomainConstraints,
    options: MultiNeuronOptions,
    budget: Budget,
) -> JointRows:
    """Rows that cut off what the bounds of some domains rest on.

    Args:
        problem: network, region and bounds.
        batch: domains that the groups shall help, with starts that know the rows from before.
        before: these rows.
        options: how many, how large.
        budget: what it cuts short is looser.
    """
    held = before
    hulls: tuple[VertexHulls, ...] = ()
    for number in range(options.rounds):
        rest = DomainBounder(problem, options.climb, held).resting(batch)
        if not number:
            hulls = _hulls(problem, batch, rest, options, budget)
        most = max(1, options.rows // len(batch.root))
        found = [_separating(part, rest, most) for part in hulls]
        fresh = [cuts for cuts in found if cuts is not None]
        if not fresh:
            break
        more = sum(cuts.size for cuts in fresh)
        each = problem.rows.shape[1]
        fresh_weights = np.zeros((len(batch.root), more), np.float32)
        batch = replace(batch, payload=widened(batch, each, held, fresh_weights))
        held = DomainConstraints.of(*held.exact, *fresh)
        result = DomainBounder(problem, options.climb, held).bound(batch, budget)
        batch = replace(batch, payload=result.payload)
        if budget.expired or (result.lower > 0).all():
            break
    rows = _compacted(problem, batch, held, before.width)
    return _freed(problem, rows) if options.vectors else rows


def without_rows(problem: SplitProblem, batch: DomainBatch, former: int) -> JointRows:
    """No rows at all, for domains with starts that know `former` of them."""
    assert batch.payload is not None
    bare, _ = _parted(batch.payload, problem.rows.shape[1], former)
    return JointRows(DomainConstraints(), replace(batch, payload=bare), np.arange(0), former)


def widened(
    batch: DomainBatch, rows: int, held: DomainConstraints, weights: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Starts that know more constraints behind those that are held.

    Args:
        batch: with starts that know what is held.
        rows: of a clause (Q).
        held: see above.
        weights: multipliers of the new ones, in every row, `[B, more]`.
    """
    assert batch.payload is not None
    bare, known = _parted(batch.payload, rows, held.width)
    more = np.repeat(weights[:, None], rows, axis=1)
    return _whole(bare, np.concatenate([known, more], axis=2))


def _parted(
    starts: NDArray[np.float32], rows: int, width: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Starts without multipliers of constraints, and these, `[N, rows, width]`."""
    bare = starts.shape[1] - rows * width
    return starts[:, :bare], starts[:, bare:].reshape(len(starts), rows, width)


def _whole(bare: NDArray[np.float32], weights: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.concatenate([bare, weights.reshape(len(bare), prod(weights.shape[1:]))], axis=1)


def _compacted(
    problem: SplitProblem, batch: DomainBatch, held: DomainConstraints, former: int
) -> JointRows:
    """Without rows over groups that no domain leans on, one set for each layer and group size."""
    assert batch.payload is not None
    bare, weights = _parted(batch.payload, problem.rows.shape[1], held.width)
    leaned = torch.as_tensor((weights > 0).any(axis=(0, 1)))
    by_layer: dict[tuple[int, int], list[tuple[HullCuts, Tensor]]] = {}
    sets: list[HullCuts | HullVectors | OwnedCuts] = []
    order: list[Tensor] = []
    first = 0
    for cuts in held.exact:
        assert isinstance(cuts, HullCuts | HullVectors | OwnedCuts)
        kept = leaned[first : first + cuts.size].nonzero()[:, 0]
        if len(kept) and isinstance(cuts, HullCuts):
            alike = cuts.hulls.activation, cuts.hulls.size
            by_layer.setdefault(alike, []).append((cuts.part(kept), first + kept))
        elif not isinstance(cuts, HullCuts):
            sets.append(cuts)
            order.append(first + torch.arange(cuts.size))
        first += cuts.size
    sets += [HullCuts.joined([cuts for cuts, _ in parts]) for parts in by_layer.values()]
    order += [place for parts in by_layer.values() for _, place in parts]
    columns = np.asarray(torch.cat([torch.zeros(0, dtype=torch.int64), *order]).numpy())
    batch = replace(batch, payload=_whole(bare, weights[:, :, columns]))
    return JointRows(DomainConstraints.of(*sets), batch, columns, former)


def _freed(problem: SplitProblem, rows: JointRows) -> JointRows:
    """Vectors in place of rows with fixed weights, with starts that say as much."""
    assert rows.batch.payload is not None
    width = rows.constraints.width
    bare, weights = _parted(rows.batch.payload, problem.rows.shape[1], width)
    sets: list[ConstraintSet] = []
    starts: list[Tensor] = []
    columns: list[np.ndarray] = []
    first = 0
    for held in rows.constraints.exact:
        place = slice(first, first + held.size)
        known, column = torch.as_tensor(weights[:, :, place]), rows.columns[place]
        first += held.size
        if isinstance(held, HullCuts):
            held, known = HullVectors.of_cuts(held, known)
            column = np.full(held.size, rows.former)
        sets.append(held)
        starts.append(known)
        columns.append(column)
    if not sets:
        return rows
    payload = _whole(bare, np.asarray(torch.cat(starts, dim=2).numpy()))
    return JointRows(
        constraints=DomainConstraints.of(*sets),
        batch=replace(rows.batch, payload=payload),
        columns=np.concatenate(columns),
        former=rows.former,
    )


def _hulls(
    problem: SplitProblem,
    batch: DomainBatch,
    rest: RestingPoint,
    options: MultiNeuronOptions,
    budget: Budget,
) -> tuple[VertexHulls, ...]:
    """The hulls of groups, layer by layer."""
    exact = BackwardPass(problem.exact, problem.bounds, problem.values, problem.slack)
    optimiser = None
    if options.octahedra is not None:
        optimiser = MixedPrecision(problem.search, problem.search_region, options.octahedra)
    walls = unit_walls(batch, problem.units)
    whole = walls.low.isinf() & walls.high.isinf()
    whole = whole.repeat_interleave(problem.rows.shape[1], dim=0)
    found = []
    for layer in _hinges(problem):
        groups = _groups(problem, layer, rest, whole[:, layer.units], options)
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
    problem: SplitProblem,
    layer: Layer,
    rest: RestingPoint,
    whole: Bool[Tensor, "M U"],
    options: MultiNeuronOptions,
) -> np.ndarray:
    """Groups of one layer, flat indices of its node, `[G, k]`.

    Args:
        whole: units of the layer that are not split.
    """
    interval = problem.bounds[layer.feed]
    lower, upper = (side[0].flatten()[layer.indices] for side in (interval.lower, interval.upper))
    incoming = rest.incoming[layer.activation][:, layer.indices] * whole
    chord = upper / (upper - lower)
    losses = (incoming.clamp(max=0) * lower * chord).mean(dim=0)
    losses = torch.where(torch.isfinite(losses), losses, 0.0)
    best = losses.argsort(descending=True)[: options.units]
    best = best[losses[best] > 0]
    size = min(options.size or FIRST_SIZE, len(best))
    if size < _SMALLEST:
        return np.zeros((0, _SMALLEST), np.int64)
    neurons = layer.indices[best]
    pairs = correlated_pairs(_as_inputs(problem, layer.feed, neurons), losses[best].numpy())
    cover = sparse_cover(pairs, size, options.groups)
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


def _hinges(problem: SplitProblem) -> list[Layer]:
    nodes = problem.exact.network.nodes
    return [layer for layer in problem.layers if is_hinge(nodes[layer.activation].op)]
