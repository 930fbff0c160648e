"""What a tree learns from domains it has closed: no-goods, made short and proved again.

A closed domain's splits are tried without each one in turn, by quick bounds from the multipliers
that closed it. Those that matter most are kept, as few as quick bounds allow, and the shorter set
is then bounded like a domain of the tree: it counts only if that bound, in float64 with rounding
subtracted, is positive. So nothing rests on a multiplier that is zero.

No-goods hold where the clause is to be broken: they close domains, and leave every bound that is
not positive what it was.

Source: BICCOS (Zhou et al., NeurIPS 2024), with every shortened set proved again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Int, Int8
from numpy.typing import NDArray

from closegap.core.budget import Budget
from closegap.core.errors import OptionError
from closegap.graph import ops
from closegap.search.tree import Tree
from closegap.verify.bab.bounder import DomainBounder
from closegap.verify.bab.domains import DomainBatch
from closegap.verify.bab.nogoods import NoGoods
from closegap.verify.bab.problem import SplitProblem
from closegap.verify.bab.units import is_hinge

__all__ = ["Learning", "LearningOptions"]

#: Domains a quick bound is made for at a time.
_CHUNK = 256
#: Rounds of implied signs in a domain, each a split with one half closed.
_ROUNDS = 8
#: A quick bound's work, in bounds of a domain: one pass where these climb.
_QUICK = 1 / 20


@dataclass(frozen=True)
class LearningOptions:
    """What is learned from closed domains.

    Attributes:
        after: domains are learned from when the tree has so many nodes; `None` for never. On
            images of the data pack fewer than one domain in a hundred was closed so.
        leaves: closed domains at a time, at most.
        most: no-goods of a clause.
        share: of all bounds, for learning, while it closes less than it costs.

    Raises:
        OptionError: nothing could be kept.
    """

    after: int | None = None
    leaves: int = 16
    most: int = 512
    share: float = 0.05

    def __post_init__(self) -> None:
        if min(self.leaves, self.most) < 1:
            raise OptionError("at least one domain and one no-good must fit")


class Learning:
    """The no-goods of one tree.

    Args:
        problem: what is searched.
        options: how much.

    Attributes:
        known: the no-goods.
        bounded: domains that were bounded.
        saved: domains that no-goods closed.
        spent: bounds that learning took, in bounds of a domain.
    """

    def __init__(self, problem: SplitProblem, options: LearningOptions) -> None:
        self._problem = problem
        self._options = options
        nodes = problem.exact.network.nodes
        kinds = [nodes[layer.activation].op for layer in problem.layers]
        self._exact = all(is_hinge(op) or isinstance(op, ops.Sign) for op in kinds)
        self.known = NoGoods.none(problem.units)
        self.bounded, self.saved, self.spent = 0, 0, 0.0

    def due(self, nodes: int) -> bool:
        """True iff it is time to learn; the clock has no say."""
        after = self._options.after
        if after is None or not self._exact or nodes < after:
            return False
        return self.spent <= self._options.share * self.bounded + self.saved

    def learn(
        self,
        batch: DomainBatch,
        bounded: int,
        nodes: int,
        bounder: DomainBounder,
        budget: Budget,
    ) -> None:
        """Learn from domains whose own bounds closed them.

        Args:
            batch: with the slopes and multipliers that did.
            bounded: among so many that were bounded with them.
            nodes: of the tree.
            bounder: that closed them; what else it uses holds on the whole region.
            budget: nothing is begun after its deadline.
        """
        self.bounded += bounded
        if not self.due(nodes) or budget.expired:
            return
        depth = (batch.units >= 0).sum(axis=1)
        deep = np.flatnonzero(depth > 1)
        batch = batch.part(deep[np.argsort(depth[deep], kind="stable")][: self._options.leaves])
        if not len(batch.root):
            return
        short = self._shortened(batch, bounder)
        fewer = (short.units >= 0).sum(axis=1) < (batch.units >= 0).sum(axis=1)
        tried = short.part(np.flatnonzero(fewer))
        if not len(tried.root):
            return
        scales = bounder.scales
        proved = np.flatnonzero(bounder.bound(tried, budget).lower > 0)
        bounder.scales = scales  # the tree's own domains set these
        self.spent += len(tried.root)
        signs = _signs(tried.part(proved), self._problem.units)
        self.known = self.known.joined(NoGoods(signs, tried.root[proved]), self._options.most)

    def propagate(
        self,
        tree: Tree,
        leaves: Int[np.ndarray, "B"],
        owner: Int[np.ndarray, "B"],
        room: int | None,
    ) -> tuple[Int[np.ndarray, "M"], Int[np.ndarray, "M"]]:
        """Close open nodes that contain a no-good, and assume what the others imply.

        An implied sign is a split like any other, of which one half is closed at once.

        Args:
            tree: where the nodes are.
            leaves: open nodes.
            owner: a number of each, handed on.
            room: nodes that may be made; `None` for any number.

        Returns:
            what is left open, and their numbers.
        """
        for _ in range(_ROUNDS if len(self.known) else 0):
            path, root = tree.paths(leaves), tree.root(leaves)
            batch = DomainBatch(root, path.units, path.signs)
            found = self.known.judge(root, _signs(batch, self._problem.units))
            self._close(tree, leaves[found.closed])
            leaves, owner = leaves[~found.closed], owner[~found.closed]
            unit, sign = found.unit[~found.closed], found.sign[~found.closed]
            implied = np.flatnonzero(unit >= 0)
            implied = implied if room is None else implied[: max(0, room) // 2]
            if not len(implied):
                break
            halves = tree.split(leaves[implied], unit[implied]).reshape(2, -1)
            below = (sign[implied] < 0).astype(np.int64)
            which = np.arange(len(implied))
            self._close(tree, halves[below, which])
            leaves = leaves.copy()
            leaves[implied] = halves[1 - below, which]
            room = None if room is None else room - halves.size
        return leaves, owner

    @property
    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """What a continued search needs."""
        return {
            "learned": self.known.signs,
            "learned_root": self.known.root,
            "learned_cost": np.array([self.bounded, self.saved, self.spent], np.float64),
        }

    def restore(self, arrays: Mapping[str, NDArray[np.generic]]) -> None:
        """Go on from `arrays`.

        Raises:
            ValueError: they are damaged, or of another network.
        """
        try:
            signs, root = arrays["learned"], arrays["learned_root"].astype(np.int64)
            bounded, saved, spent = arrays["learned_cost"].tolist()
        except (KeyError, ValueError) as error:
            raise ValueError(f"the tree's no-goods are damaged: {error}") from None
        fits = signs.dtype == np.int8 and signs.shape == (len(root), self._problem.units)
        known_roots = np.isin(root, np.arange(len(self._problem.rows))).all()
        if not (fits and known_roots and np.isin(signs, [-1, 0, 1]).all()):
            raise ValueError("the tree's no-goods are damaged")
        self.known = NoGoods(signs, root)
        self.bounded, self.saved, self.spent = int(bounded), int(saved), spent

    def _close(self, tree: Tree, nodes: Int[np.ndarray, "B"]) -> None:
        """Nodes on which the clause is known to hold."""
        tree.raise_lower(nodes, np.zeros(len(nodes)))
        tree.close(nodes)
        self.saved += len(nodes)

    def _shortened(self, batch: DomainBatch, bounder: DomainBounder) -> DomainBatch:
        """The domains with as few of their splits as quick bounds find enough."""
        count, depth = batch.units.shape
        every = batch.units >= 0
        which, place = np.nonzero(every)
        one_less = every[which]
        one_less[np.arange(len(which)), place] = False
        effect = np.full((count, depth), np.inf)
        effect[which, place] = self._quick(batch, which, one_less, bounder)
        effect[~every] = np.inf
        rank = effect.argsort(axis=1, kind="stable").argsort(axis=1)  # least bound: needed most
        low, high = np.ones(count, np.int64), every.sum(axis=1)
        rows = np.arange(count)
        while (low < high).any():
            middle = (low + high) // 2
            enough = self._quick(batch, rows, rank < middle[:, None], bounder) > 0
            high = np.where(enough, middle, high)
            low = np.where(enough, low, np.minimum(middle + 1, high))
        return _kept(batch, rows, rank < high[:, None])

    def _quick(
        self,
        batch: DomainBatch,
        which: Int[np.ndarray, "M"],
        kept: Bool[np.ndarray, "M depth"],
        bounder: DomainBounder,
    ) -> NDArray[np.float64]:
        """Quick bounds of domains under some of their splits."""
        found = [np.zeros(0)]
        for first in range(0, len(which), _CHUNK):
            part = slice(first, first + _CHUNK)
            found.append(bounder.glance(_kept(batch, which[part], kept[part])))
        self.spent += len(which) * _QUICK
        return np.concatenate(found)


def _kept(
    batch: DomainBatch, which: Int[np.ndarray, "M"], kept: Bool[np.ndarray, "M depth"]
) -> DomainBatch:
    """Domains under some of their splits."""
    part = batch.part(which)
    return replace(part, units=np.where(kept, part.units, -1), signs=np.where(kept, part.signs, 0))


def _signs(batch: DomainBatch, units: int) -> Int8[np.ndarray, "B U"]:
    """The sign of every unit's split, 0 where there is none."""
    signs = np.zeros((len(batch.root), units + 1), np.int8)
    signs[np.arange(len(signs))[:, None], batch.units] = batch.signs  # padding: the last column
    return signs[:, :units]
