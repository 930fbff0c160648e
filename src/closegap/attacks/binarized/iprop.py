"""IProp: targets for the last signs are propagated to the input, layer by layer.

In each round a few signs of the last layer that are not as the clause would have them are added to
those that are. Signs of the layer before are sought that give as many of these as possible, then
of the one before that, and at last inputs. Where the true network's margin falls, that is the new
incumbent. Source: Khalil, Gupta, Dilkina, Combinatorial Attacks on Binarized Neural Networks (ICLR
2019), section 4; weights that do not matter to the clause have no target.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from scipy.sparse import csr_array

from closegap.attacks.activation.harvest import Harvest
from closegap.attacks.binarized.layer_task import LayerTask, by_descent, by_program, by_search
from closegap.attacks.binarized.milp import require_single_sums
from closegap.attacks.binarized.problem import BinarizedProblem, binarized_problem
from closegap.attacks.binarized.straight_through import (
    StraightThroughAttack,
    StraightThroughOptions,
    short_runs,
)
from closegap.attacks.gradient.options import AttackOptions
from closegap.attacks.outcome import AttackOutcome
from closegap.core.budget import Budget
from closegap.graph.binarized.linear_form import patch_matrix
from closegap.graph.binarized.records import Thresholds
from closegap.specs.query import Query

__all__ = ["IProp", "IPropOptions", "iprop"]

#: Entries of a layer's matrix, above which targets are not propagated through it.
_MOST_ENTRIES = 1 << 22


@dataclass(frozen=True)
class IPropOptions:
    """Sizes of the search.

    Attributes:
        rounds: of each clause.
        share: of the last layer's signs that are added at first.
        patience: failures in a row before that number is halved.
        steps: of a layer's local search.
        program_seconds: for a layer's integer program after the search; 0 for the search alone.
        targets: clauses attacked in turn, those of least margin first.
        warm: the gradient runs whose best point is the first incumbent; without any it is the
            query's center.
    """

    rounds: int = 60
    share: float = 0.05
    patience: int = 5
    steps: int = 120
    program_seconds: float = 0.0
    targets: int = 3
    warm: StraightThroughOptions | None = field(default_factory=short_runs)


@dataclass(frozen=True)
class IProp:
    """Target propagation on dense layers and small convolutions without pooling."""

    options: IPropOptions = field(default_factory=IPropOptions)
    name: str = "iprop"

    def attack_query(self, query: Query, budget: Budget) -> AttackOutcome:
        """See `QueryAttack`.

        Raises:
            OptionError: the network is not binarized, or pools; says why.
        """
        problem = binarized_problem(query, self.name)
        if problem is not None:
            require_single_sums(problem, self.name)
        harvest = Harvest(query)
        if budget.expired or not query.prop.clauses:
            return harvest.outcome(self.name, finished=not budget.expired)
        if self.options.warm is not None:
            warm = StraightThroughAttack(self.options.warm)
            harvest.add(warm.attack_query(query, budget.within(budget.remaining / 4)))
        if problem is not None and not harvest.done and _small(problem):
            best = harvest.outcome(self.name, finished=False).best
            start = _center(problem) if best is None else best.reshape(-1).astype(np.float64)
            harvest.take(start)
            search = _Propagation(problem, self.options, harvest, budget)
            margins = problem.scores(problem.bits(problem.sums.at(start[None])))[0][0]
            for clause in np.argsort(margins)[: self.options.targets]:
                search.run(int(clause), start)
        return harvest.outcome(self.name, finished=harvest.done or not budget.expired)


def _center(problem: BinarizedProblem) -> NDArray[np.float64]:
    center = problem.query.center
    middle = (problem.lower + problem.upper) / 2 if center is None else center.reshape(-1)
    return np.clip(middle.astype(np.float64), problem.lower, problem.upper)


def _small(problem: BinarizedProblem) -> bool:
    network = problem.forward.network
    sizes = [layer.patches.size * layer.patches.sums for layer in network.hidden]
    return max([len(problem.lower) * network.first.patches.sums, *sizes]) <= _MOST_ENTRIES


class _Propagation:
    """The search on one query."""

    def __init__(
        self, problem: BinarizedProblem, options: IPropOptions, harvest: Harvest, budget: Budget
    ) -> None:
        self._problem = problem
        self._options = options
        self._harvest = harvest
        self._budget = budget
        self._random = np.random.default_rng(budget.seed)
        network = problem.forward.network
        matrices = [problem.sums.matrix, *(patch_matrix(h.patches) for h in network.hidden)]
        thresholds = [network.first.thresholds, *(h.thresholds for h in network.hidden)]
        self._slopes = [_signed(m, t) for m, t in zip(matrices, thresholds, strict=True)]

    def run(self, clause: int, start: Float[np.ndarray, "D"]) -> None:
        """Rounds on one clause, from a start."""
        point = start
        signs, slacks, margin = self._forward(point, clause)
        size, failures, tried = self._first_size(), 0, set[int]()
        for _ in range(self._options.rounds):
            if self._harvest.done or self._budget.expired:
                return
            wanted, wrong = self._ideal(clause, signs[-1])
            left = np.array([u for u in wrong if u not in tried], dtype=np.int64)
            if not len(left):
                return
            picked = self._picked(left, slacks[-1], size)
            if size == 1:
                tried.update(picked.tolist())
            targets = np.where(np.isin(np.arange(len(wanted)), picked), wanted, 0)
            targets = np.where(wanted == np.where(signs[-1], 1, -1), wanted, targets)
            proposal = self._propagate(targets, signs, slacks, point)
            fresh = self._forward(proposal, clause)
            if fresh[2] < margin:
                point, (signs, slacks, margin), failures = proposal, fresh, 0
                tried.clear()
                self._harvest.take(point)
            else:
                failures += 1
            if failures >= self._options.patience:
                size, failures = max(1, size // 2), 0

    def _first_size(self) -> int:
        return max(1, round(self._options.share * len(self._slopes[-1].T)))

    def _forward(
        self, point: NDArray[np.float64], clause: int
    ) -> tuple[list[NDArray[np.bool_]], list[NDArray[np.float64]], float]:
        """Signs and slacks of every layer, and the clause's margin."""
        problem = self._problem
        thresholds = problem.forward.network.first.thresholds
        slacks = [thresholds.slack(problem.sums.at(point[None]))[0]]
        signs: list[NDArray[np.bool_]] = [slacks[0] >= 0]
        for layer in problem.forward.layers:
            sums = layer.sums(signs[-1][None])
            slacks.append(layer.layer.thresholds.slack(sums)[0])
            signs.append(slacks[-1] >= 0)
        prop = problem.query.prop
        outputs = problem.forward.from_last(signs[-1][None])
        margin = prop.clause_values(prop.row_margins(outputs))[0, clause]
        return signs, slacks, float(margin)

    def _ideal(
        self, clause: int, signs: Bool[np.ndarray, "U"]
    ) -> tuple[Int[np.ndarray, "U"], Int[np.ndarray, "wrong"]]:
        """What the clause would have the last signs be (0: either), and those that are not."""
        last, prop = self._problem.forward.network.last, self._problem.query.prop
        rows = np.flatnonzero(prop.clause == clause)
        outputs = self._problem.forward.from_last(signs[None])
        row = rows[int(prop.row_margins(outputs)[0, rows].argmax())]
        wanted = -np.sign((prop.rows[row] * last.factor) @ last.weight).astype(np.int64)
        return wanted, np.flatnonzero(wanted * np.where(signs, 1, -1) < 0)

    def _picked(
        self, wrong: NDArray[np.int64], slack: NDArray[np.float64], size: int
    ) -> NDArray[np.int64]:
        """Signs to turn: those nearest to their thresholds, or any, by a coin."""
        if self._random.random() < 0.5:
            return wrong[np.argsort(np.abs(slack[wrong]), kind="stable")[:size]]
        return self._random.choice(wrong, size=min(size, len(wrong)), replace=False)

    def _propagate(
        self,
        targets: Int[np.ndarray, "U"],
        signs: list[NDArray[np.bool_]],
        slacks: list[NDArray[np.float64]],
        point: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """The input that the targets of the last layer lead to."""
        problem = self._problem
        for layer in range(len(self._slopes) - 1, 0, -1):
            reference = np.where(signs[layer - 1], 1.0, -1.0)
            ends = np.full(len(reference), -1.0), np.ones(len(reference))
            gaps = np.ones(len(targets))
            values = self._solve(layer, targets, slacks[layer] + 1.0, gaps, (reference, *ends))
            targets = np.where(values > 0, 1, -1)
        taken = problem.forward.network.first.thresholds.taken[:, 0]
        known = np.zeros(len(targets), dtype=np.int64)
        known[problem.free] = targets[problem.free]
        box = point, problem.lower, problem.upper
        return self._solve(0, known, slacks[0], problem.gap[taken], box)

    def _solve(
        self,
        layer: int,
        targets: NDArray[np.int64],
        slack: NDArray[np.float64],
        gap: NDArray[np.float64],
        ends: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]],
    ) -> NDArray[np.float64]:
        """One layer's variables; `ends` are their reference, lower and upper values."""
        asked = np.flatnonzero((targets != 0) & np.isfinite(slack))
        signs = targets[asked].astype(np.float64)
        slope = self._slopes[layer][:, asked] * signs
        task = LayerTask(slope, signs * slack[asked], gap[asked], *ends, integer=layer > 0)
        steps = self._options.steps
        values = by_search(task, self._random, steps) if layer else by_descent(task, steps)
        seconds = min(self._options.program_seconds, self._budget.remaining)
        return by_program(task, seconds, values) if seconds > 0 else values


def _signed(matrix: csr_array, thresholds: Thresholds) -> NDArray[np.float64]:
    """How each unit's slack rises with each variable, `[V, U]`, dense."""
    taken, sense = thresholds.taken[:, 0], thresholds.sense[:, 0]
    return np.asarray(matrix.toarray()[:, taken] * sense)


def iprop(options: AttackOptions) -> IProp:
    """The attack, with a user's sizes: `steps` of a layer's search, `restarts` as rounds."""
    sizes = IPropOptions()
    return IProp(
        replace(sizes, steps=options.steps or sizes.steps, rounds=options.restarts or sizes.rounds)
    )
