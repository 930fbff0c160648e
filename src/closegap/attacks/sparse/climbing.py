"""Proved bounds of many nodes by ascent, with rows over groups of units once they are due."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from closegap.attacks.sparse.ascent import Ascent, Climbed, Slopes
from closegap.attacks.sparse.group_rows import GroupRows
from closegap.attacks.sparse.groups import group_hulls, separated
from closegap.attacks.sparse.options import GroupOptions
from closegap.attacks.sparse.planes import Planes, Proof, Ranges
from closegap.attacks.sparse.reach import Reach
from closegap.core.budget import Budget

__all__ = ["Climbing", "Grouping"]

Array = NDArray[np.float64]

#: Where rows were not worth their price, they are looked for again once so many times more nodes
#: were bounded.
_AGAIN = 4


@dataclass(eq=False)
class Grouping:
    """When a tree looks for rows, on whichever ground it is.

    Attributes:
        options: see `GroupOptions`.
        programs: whether nodes' programs have the rows; nodes that are bounded together need none.
        seen: nodes bounded so far.
        off: no rows are looked for before so many were.
    """

    options: GroupOptions = field(default_factory=GroupOptions)
    programs: bool = False
    seen: int = 0
    off: int = 0

    @property
    def due(self) -> bool:
        """Whether a ground without rows shall have some."""
        after = self.options.after
        return after is not None and self.seen >= max(after, self.off)

    def judge(self, before: Float[np.ndarray, "B"], after: Float[np.ndarray, "B"]) -> bool:
        """Whether rows stay; else none are looked for in the near future.

        Args:
            before: the least values of the nodes' planes; those above zero are done.
            after: the same with rows.
        """
        missing, rest = np.maximum(-before, 0.0), np.maximum(-after, 0.0)
        if float((missing - rest).sum()) >= self.options.worth * float(missing.sum()):
            return True
        self.off = _AGAIN * max(self.seen, 1)
        return False


class Climbing:
    """Bounds nodes of one ground.

    Args:
        planes: of the ground.
        reach: holds every input that counts.
        grouping: when there shall be rows.
        budget: of the tree; its deadline ends climbs and the search for rows.

    Attributes:
        rows: over groups of units, as yet.
    """

    def __init__(self, planes: Planes, reach: Reach, grouping: Grouping, budget: Budget) -> None:
        self._planes, self._reach = planes, reach
        self._grouping, self._budget = grouping, budget
        ground = planes.ground
        self.rows = GroupRows.of(ground)
        self._ascent = Ascent(ground, reach, self.rows, budget)
        self._usual = np.zeros((len(ground.rows), 0), dtype=np.float32)
        self._looked = False

    def start(self, ranges: Ranges) -> Slopes:
        """Where nodes of which nothing is known may start."""
        variation = self._reach.variation
        flows = None if variation is None else variation.start()
        found = Slopes.of(self._planes.ground, ranges, flows)
        unknown = np.full((len(found.alpha), self.rows.count), np.nan, dtype=np.float32)
        return replace(found, joint=unknown)

    def run(
        self, targets: Int[np.ndarray, "B"], ranges: Ranges, start: Slopes, steps: int
    ) -> tuple[Float[np.ndarray, "B"], Climbed, Proof]:
        """Proved bounds of many nodes, and the margins' planes behind them.

        Args:
            targets: the nodes'.
            ranges: of the nodes, `[B, U]`.
            start: where to climb from.
            steps: at most.
        """
        self._grouping.seen += len(targets)
        found = self._bounded(targets, ranges, self._filled(start, targets), steps)
        if not self._grouping.due or self._looked:
            return found
        return self._joined(targets, ranges, found)

    def joined(self, target: int, ranges: Ranges) -> bool:
        """Count a node that a program is about to bound; whether it brought rows."""
        self._grouping.seen += 1
        if not self._grouping.due or self._looked:
            return False
        node = Ranges(ranges.low[None], ranges.high[None])
        targets, start = np.array([target]), self.start(node)
        self._joined(
            targets, node, self._bounded(targets, node, start, self._grouping.options.steps)
        )
        return self.rows.count > 0

    def _bounded(
        self, targets: Int[np.ndarray, "B"], ranges: Ranges, start: Slopes, steps: int
    ) -> tuple[Array, Climbed, Proof]:
        planes, held = self._planes, self.rows.within(ranges)
        climbed = self._ascent.climb(targets, ranges, start, steps, held)
        joint = held.weighed(climbed.slopes.joint)
        proof = planes.proof(planes.margin(targets), climbed.multipliers, ranges, joint)
        flows = climbed.slopes.flows
        known = flows if flows.shape[1] else None
        lower = planes.distance(proof.slopes, proof.constants, known)
        beyond = np.maximum(lower, planes.ground.limit)
        return np.where(held.empty, beyond, lower), climbed, proof

    def _filled(self, start: Slopes, targets: Int[np.ndarray, "B"]) -> Slopes:
        """With multipliers of all rows: those that usually serve a target where none are known."""
        known = start.joint
        missing = self.rows.count - known.shape[1]
        wide = np.pad(known, ((0, 0), (0, missing)), constant_values=np.nan)
        return replace(start, joint=np.where(np.isnan(wide), self._usual[targets], wide))

    def _joined(
        self, targets: Int[np.ndarray, "B"], ranges: Ranges, found: tuple[Array, Climbed, Proof]
    ) -> tuple[Array, Climbed, Proof]:
        """Look for rows at these nodes; their bounds with rows."""
        self._looked = True
        planes, options, first = self._planes, self._grouping.options, found
        ground, climbed = planes.ground, found[1]
        whole = Ranges(ground.low, ground.high)
        losses = np.maximum(climbed.given, 0.0).mean(axis=0, dtype=np.float64)
        hulls = group_hulls(planes, self._reach, whole, losses, options, self._budget)
        some = np.unique(np.linspace(0, len(targets) - 1, options.points).astype(np.int64))
        for _ in range(options.rounds):
            few = ranges.select(some)
            held, slopes = self.rows.within(few), climbed.slopes.select(some)
            rest = self._ascent.resting(targets[some], few, slopes, held)
            fresh = [separated(part, rest, options.rows) for part in hulls]
            new = [cuts for cuts in fresh if cuts is not None]
            if not new or self._budget.expired:
                break
            self._take(GroupRows.of(ground, [*self.rows.sets, *new]))
            start = self._padded(climbed.slopes)
            found = self._bounded(targets, ranges, start, options.steps)
            climbed = found[1]
        if self.rows.count and self._grouping.judge(first[1].values, climbed.values):
            return self._kept(targets, found)
        self._looked = not self.rows.count
        self._take(GroupRows.of(ground))
        return first

    def _kept(
        self, targets: Int[np.ndarray, "B"], found: tuple[Array, Climbed, Proof]
    ) -> tuple[Array, Climbed, Proof]:
        """Without the rows that no node leans on."""
        lower, climbed, proof = found
        weights = climbed.slopes.joint
        leaned = np.asarray((weights > 0).any(axis=0))
        self._take(self.rows.part(self._planes.ground, leaned))
        weights = weights[:, leaned]
        below = (np.arange(len(self._planes.ground.rows))[:, None] == targets).astype(np.float32)
        below /= np.maximum(below.sum(axis=1, keepdims=True), 1)
        self._usual = below @ weights
        slopes = replace(climbed.slopes, joint=weights)
        return lower, replace(climbed, slopes=slopes), proof

    def _take(self, rows: GroupRows) -> None:
        self.rows = rows
        self._ascent = Ascent(self._planes.ground, self._reach, rows, self._budget)

    def _padded(self, slopes: Slopes) -> Slopes:
        missing = self.rows.count - slopes.joint.shape[1]
        return replace(slopes, joint=np.pad(slopes.joint, ((0, 0), (0, missing))))
