"""Bounds of nodes on one ground: sweeps and planes first, then a program; all evaluated anew."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from closegap.attacks.sparse.ascent import Climbed, Slopes
from closegap.attacks.sparse.climbing import Climbing, Grouping
from closegap.attacks.sparse.currents import Currents
from closegap.attacks.sparse.curved import node_relaxation
from closegap.attacks.sparse.ground import Ground
from closegap.attacks.sparse.group_rows import GroupRows
from closegap.attacks.sparse.options import Curved
from closegap.attacks.sparse.planes import Planes, Proof, Ranges
from closegap.attacks.sparse.program import node_program
from closegap.attacks.sparse.reach import Reach
from closegap.attacks.sparse.rebound import Rebound
from closegap.attacks.sparse.relaxation import NodeRelaxation, Solved
from closegap.attacks.sparse.sweep import sweep
from closegap.core.budget import Budget
from closegap.core.numerics import DISTANCE_STEP
from closegap.specs.objectives import L1Distance, Objective

__all__ = ["Nodes", "narrower"]

Array = NDArray[np.float64]

#: Phases whose opposite is checked with the same multipliers, at most.
_CHECKED = 64
#: A program is written anew for a node whose units range over less than this share of its own.
_NARROWER = 0.75
#: Programs held for each target.
_HELD = 3
#: Where the margin is minimised within a radius: programs of a node, and of a cell; Newton's method
#: goes on while the radius grows by more than this share.
_STEPS = 3
_NEARLY = 1e-3
_ROOT_STEPS = 40
#: No input is farther in any coordinate.
_FAR = 1.0
#: Units are not bounded again in nodes where that takes so many products.
_COSTLY = 2e9
#: Of the time, for sweeps over a ground's units; none are made where one takes so many products.
_SWEEP_SHARE, _SWEPT = 0.35, 1e9
#: Another sweep is made while the last one narrowed the units to less than this share.
_GAINED = 0.9


@dataclass(frozen=True, eq=False)
class _Held:
    ranges: Ranges
    relaxation: NodeRelaxation


@dataclass(frozen=True)
class _Root:
    """Where a search for the least radius starts, the margin asked for, and how long it may be."""

    radius: float
    overshoot: float
    steps: int


class Nodes:
    """Bounds nodes of all targets.

    Args:
        ground: where.
        objective: the distance.
        budget: of every program.
        curved: see `Curved`.
        grouping: when there shall be rows over groups of units; never, where it is `None`.
    """

    def __init__(
        self,
        ground: Ground,
        objective: Objective,
        budget: Budget,
        curved: Curved = Curved.PLAIN,
        grouping: Grouping | None = None,
    ) -> None:
        self.ground = ground
        self.programs = 0
        self._planes = Planes(ground, objective)
        self._reach = Reach.of(ground, objective)
        self._currents = Currents(self._reach, 2 * ground.units)
        self._grouping = grouping or Grouping()
        self._climbing = Climbing(self._planes, self._reach, self._grouping, budget)
        self._rebound = Rebound(self._planes, self._reach)
        self._objective = objective
        self._budget = budget
        self._curved = curved
        self._held: dict[int, list[_Held]] = {}

    @property
    def rows(self) -> GroupRows:
        """Over groups of units, as yet."""
        return self._climbing.rows

    def propagated(self, row: int, ranges: Ranges) -> tuple[float, Proof]:
        """A bound by linear propagation, and the margin's plane behind it."""
        margin = self._planes.margin(row)
        proof = self._planes.proof(margin, self._planes.propagated(margin, ranges), ranges)
        return float(self._planes.distance(proof.slopes, proof.constants)[0]), proof

    def climbed(
        self, rows: Int[np.ndarray, "B"], ranges: Ranges, start: Slopes, steps: int
    ) -> tuple[Float[np.ndarray, "B"], Climbed, Proof]:
        """Proved bounds of many nodes, by ascent on slopes, and the margins' planes behind them.

        Args:
            rows: the targets'.
            ranges: of the nodes, `[B, U]`.
            start: where to climb from.
            steps: at most.
        """
        return self._climbing.run(rows, ranges, start, steps)

    def rebounded(self, ranges: Ranges, margins: Proof) -> Ranges:
        """Tighter ranges of many nodes, where the margins' planes may be at most 0.

        Args:
            ranges: of the nodes, `[B, U]`.
            margins: a plane below each node's margin.
        """
        if self._reach.variation is not None or self._reach.grid is not None:
            return ranges  # their own limits count, the ball or box around them hardly
        if self.ground.units**2 * self.ground.inputs > _COSTLY:
            return ranges
        return self._rebound.run(ranges, margins)

    def start(self, ranges: Ranges) -> Slopes:
        """Where nodes of which nothing is known may start."""
        return self._climbing.start(ranges)

    def settled(self, rounds: int) -> Ranges:
        """Ranges of the units wherever an input is nearer than the ground's limit.

        Args:
            rounds: of sweeps, at most, for a share of the time; they pay where total variation
                counts, of which the ground's own bounds know the same flows for all units.
        """
        ranges = Ranges(self.ground.low, self.ground.high)
        spend = self._budget.within(_SWEEP_SHARE * self._budget.remaining)
        pays = self._reach.variation is not None
        pays = pays and self.ground.units**2 * self.ground.inputs <= _SWEPT
        for _ in range(rounds if pays else 0):
            before = ranges
            ranges = sweep(self._planes, self._currents, ranges, [], spend)
            if ranges.empty or spend.expired or not narrower(ranges, before):
                break
        return ranges

    def swept(self, ranges: Ranges, margins: list[Proof]) -> Ranges:
        """Tighter ranges of the units, for inputs nearer than the ground's limit."""
        return sweep(self._planes, self._currents, ranges, margins, self._budget)

    def solve(self, row: int, ranges: Ranges, stop: float) -> tuple[Solved, Proof | None]:
        """A node's program; `lower` is proved.

        Args:
            row: the target's.
            ranges: of the node.
            stop: a bound above this is as good as any other.

        Returns:
            what was found, and the margin's plane behind the bound, if the solver gave one.
        """
        if self._grouping.programs and self._climbing.joined(row, ranges):
            self._held.clear()
        relaxation = self._relaxation(row, ranges)
        if relaxation.priced:
            return self._once(row, relaxation, ranges, stop * (1 + DISTANCE_STEP))
        steps = _STEPS if ranges.free.any() else _ROOT_STEPS
        radius = min(stop * (1 + DISTANCE_STEP), self.ground.limit, _FAR)
        return self._rooted(row, relaxation, ranges, _Root(radius, 0.0, steps))[0]

    def _once(
        self, row: int, relaxation: NodeRelaxation, ranges: Ranges, stop: float
    ) -> tuple[Solved, Proof | None]:
        self.programs += 1
        found = relaxation.solve(ranges, 0.0, stop, self._budget)
        if found.multipliers is None:
            return found, None
        proof = self._proof(row, found, ranges)
        flows = None if found.flows is None else found.flows[None]
        lower = float(self._planes.distance(proof.slopes, proof.constants, flows)[0])
        return replace(found, lower=max(found.lower, lower)), proof

    def nearest(
        self, row: int, ranges: Ranges, on: NDArray[np.bool_], overshoot: float
    ) -> Float[np.ndarray, "D"] | None:
        """The nearest point of a cell whose margin is below zero by so much, in belief."""
        cell = Ranges(np.where(on, 0.0, ranges.low), np.where(on, ranges.high, 0.0))
        relaxation = self._relaxation(row, ranges)
        if not relaxation.priced:
            root = _Root(min(self.ground.limit, _FAR), overshoot, _ROOT_STEPS)
            return self._rooted(row, relaxation, cell, root)[1]
        self.programs += 1
        return relaxation.solve(cell, overshoot, math.inf, self._budget).difference

    def _rooted(
        self, row: int, relaxation: NodeRelaxation, ranges: Ranges, root: _Root
    ) -> tuple[tuple[Solved, Proof | None], Float[np.ndarray, "D"] | None]:
        """Newton's method from below on the radius, halving where it stands still.

        Returns:
            the best bound and its plane, and the point of the least radius that has one.
        """
        best: tuple[Solved, Proof | None] = Solved(), None
        point, low, high, radius = None, 0.0, math.inf, root.radius
        for _ in range(root.steps):
            found, proof = self._once(row, relaxation, ranges, radius)
            if proof is None:
                break
            asked = proof.constants + root.overshoot * found.price
            lower = float(self._planes.distance(proof.slopes, asked)[0])
            if not best[0].lower >= found.lower:
                best = found, proof
            if lower < radius and found.difference is not None:
                point, high = found.difference, radius
            ahead = lower > low * (1 + _NEARLY)
            low = max(low, lower)
            if not high - low > DISTANCE_STEP * min(1.0, high) or low >= root.radius:
                break
            if self._budget.expired:
                break
            radius = low if ahead or not math.isfinite(high) else (low + high) / 2
        return best, point

    def implied(self, proof: Proof, ranges: Ranges, cutoff: float) -> Ranges:
        """The ranges, with those phases fixed whose opposite is proved to be beyond the cutoff.

        What the ranges lose is at least as far as the cutoff, and counted nowhere: it should be a
        known counterexample's distance.
        """
        free = np.flatnonzero(ranges.free)
        gains = np.stack([proof.off[0, free], proof.on[0, free]]) - proof.either[0, free]
        side, place = np.nonzero(gains > 0)
        order = np.argsort(-gains[side, place], kind="stable")[:_CHECKED]
        side, place = side[order], place[order]
        if not len(side):
            return ranges
        raised = proof.constants + gains[side, place] * (1 - DISTANCE_STEP)
        slopes = np.repeat(proof.slopes, len(side), axis=0)
        shut = self._planes.distance(slopes, raised) >= cutoff
        low, high = ranges.low.copy(), ranges.high.copy()
        low[free[place[shut & (side == 0)]]] = 0.0
        high[free[place[shut & (side == 1)]]] = 0.0
        return Ranges(low, high)

    def _proof(self, row: int, found: Solved, ranges: Ranges) -> Proof:
        assert found.multipliers is not None
        margin = self._planes.margin(row).times(np.array([found.price]))
        joint = None
        if found.joint is not None and len(found.joint):
            joint = self.rows.within(ranges).weighed(found.joint[None])
        return self._planes.proof(margin, found.multipliers[None], ranges, joint)

    def _relaxation(self, row: int, ranges: Ranges) -> NodeRelaxation:
        """The narrowest program that holds the node; a new one where all are much wider."""
        held = self._held.setdefault(row, [])
        wide = [entry for entry in held if _holds(entry.ranges, ranges)]
        best = min(wide, key=lambda entry: _width(entry.ranges, ranges), default=None)
        if best is None or _width(ranges, ranges) < _NARROWER * _width(best.ranges, ranges):
            rows = self.rows if self._grouping.programs else GroupRows.of(self.ground)
            ground = self.ground
            relaxation = node_relaxation(
                node_program(ground, self._objective, row, ranges, rows),
                lambda: node_program(ground, L1Distance(), row, ranges, rows),
                self._curved,
            )
            best = _Held(ranges, relaxation)
            held.append(best)
            del held[1 : len(held) - _HELD + 1]
        return best.relaxation


def narrower(new: Ranges, old: Ranges) -> bool:
    """Whether the ranges shrank so much that it is worth another look."""
    return _width(new, old) < _GAINED * _width(old, old)


def _holds(outer: Ranges, inner: Ranges) -> bool:
    return bool((outer.low <= inner.low).all() and (outer.high >= inner.high).all())


def _width(ranges: Ranges, of: Ranges) -> float:
    """Of triangles: the areas of the units that are free in the node, square roots summed."""
    low, high = np.maximum(-ranges.low, 0.0), np.maximum(ranges.high, 0.0)
    return float(np.sqrt(low * high)[of.free].sum())
