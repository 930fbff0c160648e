"""A guided tree over the phases of units: a beam of subdomains, and a backlog of all others.

Every round the beam's subdomains are split at the same few units, those that filtered strong
branching chooses most often. Of the children a sample goes on: low bounds are likelier, and the
child that has the pool's majority phases always does. What is not sampled stays open in the tree,
and comes back once the beam has died out; so a tree that has ended is a proof.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Bool, Float, Int, Int8
from numpy.typing import NDArray

from closegap.bounds.optimise import AscentOptions
from closegap.branching.options import BranchingOptions
from closegap.core.budget import Budget
from closegap.core.numerics import TINY
from closegap.search.tree import Accounting, Tree
from closegap.verify.bab.bounder import DomainBounder
from closegap.verify.bab.branching import Brancher
from closegap.verify.bab.domains import DomainBatch, DomainResult, unit_walls
from closegap.verify.bab.leaves import LeafPrograms
from closegap.verify.bab.problem import SplitProblem

__all__ = ["GuidedTree", "Plot", "TreeOptions", "sampling_odds"]

#: Judges points `[M, *input shape]`.
Offer = Callable[[NDArray[np.float64]], None]


@dataclass(frozen=True)
class TreeOptions:
    """How a tree grows.

    Attributes:
        beam: subdomains split in a round.
        levels: units they are split at.
        temperature: of the sampling; small follows the bounds, large is chance.
        guided: sample by bounds and keep the majority's path; else by chance alone.
        offered: candidates of a round.
        climbing: on the bounds of every subdomain.
        branching: which units to split.
    """

    beam: int = 8
    levels: int = 4
    temperature: float = 0.1
    guided: bool = True
    offered: int = 8
    climbing: AscentOptions = field(
        default_factory=lambda: AscentOptions(
            iterations=20, slope_rate=0.1, split_rate=0.3, decay=0.95, patience=6
        )
    )
    branching: BranchingOptions = field(default_factory=lambda: BranchingOptions("kfsb"))


@dataclass(frozen=True, eq=False)
class Plot:
    """Where a guided tree grows: below one root of a tree that others may have grown before.

    Attributes:
        problem: roots, units, bounds.
        tree: of the problem; has no node before anybody grows it.
        root: number of the root.
    """

    problem: SplitProblem
    tree: Tree = field(default_factory=Tree)
    root: int = 0


@dataclass(frozen=True, eq=False)
class _Beam:
    """Open nodes of the tree, and what is known of each."""

    nodes: Int[np.ndarray, "B"]
    batch: DomainBatch
    result: DomainResult

    def part(self, rows: Int[np.ndarray, "M"]) -> _Beam:
        """Some of the nodes."""
        batch, result = self.batch.part(rows), self.result.part(rows)
        return _Beam(self.nodes[rows], replace(batch, payload=result.payload), result)

    @property
    def open(self) -> Bool[np.ndarray, "B U"]:
        """Units that a split would tell something of."""
        result = self.result
        return np.asarray(((result.unit_lower < 0) & (result.unit_upper > 0)).numpy())


class GuidedTree:
    """One tree below a root, or over the part of it with some phases fixed.

    Args:
        plot: where it grows; no other search may grow that tree meanwhile.
        options: see `TreeOptions`.
        offer: judges candidates.
        majority: the phases most of the pool has, `[U]`.
        random: of the sampling.
        fixed: phases that every subdomain has; `None` for none.
    """

    def __init__(
        self,
        plot: Plot,
        options: TreeOptions,
        offer: Offer,
        majority: Callable[[], NDArray[np.bool_]],
        random: np.random.Generator,
        fixed: Int8[np.ndarray, "U"] | None = None,
    ) -> None:
        self._problem = problem = plot.problem
        self._root = plot.root
        self._options = options
        self._offer = offer
        self._majority = majority
        self._random = random
        self._fixed = np.zeros(problem.units, np.int8) if fixed is None else fixed
        self._bounder = DomainBounder(problem, options.climbing)
        self._brancher = Brancher(problem, self._bounder, options.branching)
        self._brancher.steady = True
        self._leaves = LeafPrograms(problem)
        self._tree = plot.tree
        self._tree.plant(len(problem.rows))
        self._beam: _Beam | None = None

    @property
    def accounting(self) -> Accounting:
        """Where every subdomain went, those of other roots too."""
        return self._tree.accounting()

    @property
    def lower(self) -> float:
        """Proved lower bound of the root's margin; infinity where its tree ended with a proof."""
        return float(self._tree.least_lower()[self._root])

    @property
    def exhausted(self) -> bool:
        """True iff no subdomain is open."""
        return not len(self._open())

    def domain(self) -> Int8[np.ndarray, "U"] | None:
        """The phases of a subdomain of the beam, drawn by its bound."""
        beam = self._beam
        if beam is None or not len(beam.nodes):
            return None
        odds = sampling_odds(beam.result.lower, self._options.temperature)
        pick = int(self._random.choice(len(odds), p=odds))
        phase = np.zeros(self._problem.units + 1, np.int8)
        phase[beam.batch.units[pick]] = beam.batch.signs[pick]
        return phase[:-1]

    def step(self, budget: Budget) -> None:
        """One round: choose the beam, split it, bound the children, close what is proved."""
        beam = self._sampled(self._beam) if self._beam is not None else None
        if beam is None or not len(beam.nodes):
            beam = self._bounded(self._backlog(), None, budget)
        if len(beam.nodes) and not budget.expired:
            nodes, owner = self._split(beam)
            self._beam = self._bounded(nodes, beam.result.payload[owner], budget)
        else:
            self._beam = beam

    def _backlog(self) -> Int[np.ndarray, "B"]:
        """Open nodes with the least bounds."""
        open_ = self._open()
        order = np.argsort(self._tree.lower(open_), kind="stable")
        return np.asarray(open_[order[: self._options.beam]])

    def _open(self) -> Int[np.ndarray, "B"]:
        """Open nodes below the root."""
        open_ = self._tree.open_nodes()
        return np.asarray(open_[self._tree.root(open_) == self._root])

    def _bounded(
        self,
        nodes: Int[np.ndarray, "B"],
        payload: NDArray[np.float32] | None,
        budget: Budget,
    ) -> _Beam:
        """Bound open nodes, close the proved, decide the leaves; returns the others."""
        batch = self._batch(nodes, payload)
        result = self._bounder.bound(batch, budget)
        self._tree.raise_lower(nodes, result.lower)
        self._tree.close(nodes[self._tree.lower(nodes) > 0])
        beam = _Beam(nodes, batch, result).part(np.flatnonzero(~(self._tree.lower(nodes) > 0)))
        if not len(beam.nodes):
            return beam
        order = np.argsort(beam.result.lower, kind="stable")[: self._options.offered]
        self._offer(beam.result.candidates[order])
        is_leaf = ~beam.open.any(axis=1)
        self._decide(beam.part(np.flatnonzero(is_leaf)), budget)
        return beam.part(np.flatnonzero(~is_leaf))

    def _batch(
        self, nodes: Int[np.ndarray, "B"], payload: NDArray[np.float32] | None
    ) -> DomainBatch:
        path = self._tree.paths(nodes)
        fixed = np.flatnonzero(self._fixed)
        shape = (len(nodes), len(fixed))
        units = np.column_stack([path.units, np.broadcast_to(fixed, shape)])
        signs = np.broadcast_to(self._fixed[fixed].astype(np.int64), shape)
        signs = np.column_stack([path.signs, signs])
        points = np.column_stack([path.points, np.zeros(shape)])
        return DomainBatch(self._tree.root(nodes), units, signs, payload, points)

    def _decide(self, leaves: _Beam, budget: Budget) -> None:
        """Linear programs on leaves: close them, or offer their points and give them up."""
        if not len(leaves.nodes):
            return
        walls = unit_walls(leaves.batch, self._problem.units)
        found = self._leaves.solve(leaves.batch.root, walls, budget)
        self._tree.raise_lower(leaves.nodes, found.lower)
        proved = found.lower > 0
        self._tree.close(leaves.nodes[proved])
        if len(found.points):
            self._offer(found.points)
        self._tree.give_up(leaves.nodes[found.tried & ~proved])

    def _sampled(self, beam: _Beam) -> _Beam:
        """The majority's path, and a draw of the others without replacement."""
        count = self._options.beam
        if len(beam.nodes) <= count:
            return beam
        keys = self._random.gumbel(size=len(beam.nodes))
        if self._options.guided:
            odds = sampling_odds(beam.result.lower, self._options.temperature)
            keys = keys + np.log(odds)
            keys[self._on_majority_path(beam)] = np.inf
        return beam.part(np.argsort(-keys, kind="stable")[:count])

    def _on_majority_path(self, beam: _Beam) -> NDArray[np.bool_]:
        """Of each node whether all its splits have the phase most of the pool has."""
        phase = np.append(np.where(self._majority(), 1, -1), 0)
        depth = beam.batch.units.shape[1] - np.count_nonzero(self._fixed)
        units, signs = beam.batch.units[:, :depth], beam.batch.signs[:, :depth]
        return np.asarray((signs == phase[units]).all(axis=1))

    def _split(self, beam: _Beam) -> tuple[Int[np.ndarray, "M"], Int[np.ndarray, "M"]]:
        """Split every node at the merged units that are open in it.

        Returns:
            the leaves below the nodes, and which node each lies below.
        """
        ranked, open_ = self._brancher.rank(beam.batch, beam.result), beam.open
        leaves, owner = beam.nodes, np.arange(len(beam.nodes))
        merged = self._merged(ranked)
        for unit in merged:
            can = open_[owner, unit]
            children = self._tree.split(leaves[can], np.full(int(can.sum()), unit))
            leaves = np.concatenate([leaves[~can], children])
            owner = np.concatenate([owner[~can], owner[can], owner[can]])
        whole = np.asarray(~open_[:, merged].any(axis=1))[owner]
        if whole.any():
            children = self._tree.split(leaves[whole], ranked[owner[whole], 0])
            leaves = np.concatenate([leaves[~whole], children])
            owner = np.concatenate([owner[~whole], owner[whole], owner[whole]])
        return leaves, owner

    def _merged(self, ranked: Int[np.ndarray, "B width"]) -> Int[np.ndarray, "levels"]:
        """The units that are ranked high most often."""
        levels = self._options.levels
        votes = np.zeros(self._problem.units + 1)
        weight = 1.0 / (1.0 + np.arange(ranked.shape[1]))
        np.add.at(votes, ranked, np.broadcast_to(weight, ranked.shape))
        order = np.argsort(-votes[:-1], kind="stable")[:levels]
        return np.asarray(order[votes[order] > 0])


def sampling_odds(lower: Float[np.ndarray, "B"], temperature: float) -> Float[np.ndarray, "B"]:
    """How likely each subdomain is sampled: a softmax of its bound's share of the worst bound.

    Source: the released code of the paper; as printed there, odds are nearly uniform.
    """
    known = np.isfinite(lower)
    least = min(float(np.min(lower, initial=0.0, where=known)), -TINY)
    share = np.where(known, lower / least, 1.0)
    keys = (share - share.max()) / temperature
    odds = np.exp(keys)
    return np.asarray(odds / odds.sum())
