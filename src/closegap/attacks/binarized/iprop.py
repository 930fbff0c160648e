"""IProp: targets for the last signs are propagated to the input, layer by layer.

In each round a few signs of the last layer that are not as the clause would have them are added to
those that are. Signs of the layer before are sought that give as many of these as possible, then
of the one before that, and at last inputs. Where the true network's margin falls, that is the new
incumbent. Source: Khalil, Gupta, Dilkina, Combinatorial Attacks on Binarized Neural Networks (ICLR
2019), section 4; weights that do not matter to the clause have no target. `published` is what they
describe; beyond it, many sets of targets are propagated side by side, those near their thresholds
are preferred, and a target counts by how much it matters to what comes behind.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.sparse import csr_array

from closegap.attacks.activation.harvest import Harvest
from closegap.attacks.activation.query_attack import QueryAttack
from closegap.attacks.binarized.layer_lanes import LayerLanes, by_lanes, influence
from closegap.attacks.binarized.layer_task import LayerTask, by_descent, by_program, by_search
from closegap.attacks.binarized.problem import BinarizedProblem, searched
from closegap.attacks.binarized.soft_descent import SoftDescent, SoftDescentOptions
from closegap.attacks.gradient.options import AttackOptions
from closegap.attacks.outcome import AttackOutcome
from closegap.core.budget import Budget
from closegap.core.numerics import TINY
from closegap.graph.binarized.linear_form import patch_matrix
from closegap.graph.binarized.records import Thresholds
from closegap.specs.query import Query

__all__ = ["IProp", "IPropOptions", "Propagation", "iprop", "propagates", "published"]

#: Entries of a layer's matrix, above which targets are not propagated through it.
_MOST_ENTRIES = 1 << 22
#: Sizes of the sets that lanes add: the round's own, a half, a quarter, an eighth.
_HALVINGS = 4
#: What a target without influence counts, of 1 for an average one.
_FLOOR = 0.3


def _short_descent() -> QueryAttack:
    return SoftDescent(SoftDescentOptions(legs=3))


@dataclass(frozen=True)
class IPropOptions:
    """Sizes of the search.

    Attributes:
        rounds: of each clause.
        share: of the last layer's signs that are added at first.
        patience: failures in a row before that number is halved.
        lanes: sets of signs that are tried side by side in a round; with one, layers are solved by
            local search or programs, with more by descent.
        nearest: share of the sets that take signs near their thresholds rather than any.
        steps: of a layer's search.
        program_seconds: for a layer's integer program after the search; 0 for the search alone.
            With one lane only.
        targets: clauses attacked in turn, those of least margin first.
        warm: the attack whose best point is the first incumbent; without any it is the query's
            center.
    """

    rounds: int = 60
    share: float = 0.05
    patience: int = 5
    lanes: int = 16
    nearest: float = 0.5
    steps: int = 60
    program_seconds: float = 0.0
    targets: int = 3
    warm: QueryAttack | None = field(default_factory=_short_descent)


def published() -> IPropOptions:
    """As in the paper: one random set a round, layers by programs of ten seconds, no warm start."""
    return IPropOptions(lanes=1, nearest=0.0, program_seconds=10.0, warm=None)


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
        return searched(query, self.name, budget, self._search, single=True)

    def _search(self, problem: BinarizedProblem | None, harvest: Harvest, budget: Budget) -> None:
        if self.options.warm is not None:
            quarter = budget.within(budget.remaining / 4)
            harvest.add(self.options.warm.attack_query(harvest.query, quarter))
        if problem is not None and not harvest.done and propagates(problem):
            start = _center(problem) if harvest.best is None else _flat(harvest.best)
            harvest.take(start)
            search = Propagation(problem, self.options, harvest, budget)
            margins = problem.scores(problem.bits(problem.sums.at(start[None])))[0][0]
            for clause in np.argsort(margins)[: self.options.targets]:
                search.begin(start, int(clause))
                search.run(self.options.rounds)


def _flat(point: NDArray[np.float32]) -> NDArray[np.float64]:
    return point.reshape(-1).astype(np.float64)


def _center(problem: BinarizedProblem) -> NDArray[np.float64]:
    center = problem.query.center
    middle = (problem.lower + problem.upper) / 2 if center is None else center.reshape(-1)
    return np.clip(middle.astype(np.float64), problem.lower, problem.upper)


def propagates(problem: BinarizedProblem) -> bool:
    """Whether no layer pools or is too large."""
    network = problem.forward.network
    layers = [network.first.thresholds, *(layer.thresholds for layer in network.hidden)]
    sizes = [layer.patches.size * layer.patches.sums for layer in network.hidden]
    largest = max([len(problem.lower) * network.first.patches.sums, *sizes])
    return largest <= _MOST_ENTRIES and all(layer.taken.shape[1] == 1 for layer in layers)


@dataclass(frozen=True, eq=False)
class _State:
    """Points, and what the network makes of them.

    Attributes:
        points: inputs.
        signs, slacks: of every layer, `[B, U]`.
        margins: of the clauses.
    """

    points: Float[np.ndarray, "B D"]
    signs: tuple[NDArray[np.bool_], ...]
    slacks: tuple[NDArray[np.floating[Any]], ...]
    margins: Float[np.ndarray, "B K"]

    def at(self, place: int) -> _State:
        """One of them."""
        row = slice(place, place + 1)
        signs = tuple(layer[row] for layer in self.signs)
        slacks = tuple(layer[row] for layer in self.slacks)
        return _State(self.points[row], signs, slacks, self.margins[row])


class Propagation:
    """The search on one query, round by round.

    Args:
        problem: the query; `propagates` holds of it.
        options: sizes.
        harvest: receives every incumbent.
        budget: deadline and seed.
    """

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
        self._tried: set[int] = set()
        self.begin_at_center()

    def begin_at_center(self) -> None:
        """Take the query's center as incumbent."""
        self.begin(_center(self._problem))

    def begin(self, point: Float[np.ndarray, "D"], clause: int | None = None) -> None:
        """Take a point as incumbent, for a clause or for the one of least margin there."""
        self._state = self._forward(point[None])
        self._clause = int(self._state.margins[0].argmin()) if clause is None else clause
        self._size = max(1, round(self._options.share * self._slopes[-1].shape[1]))
        self._failures = 0
        self._tried.clear()

    def run(self, rounds: int) -> bool:
        """Rounds on the clause.

        Returns:
            whether it may go on: neither broken, nor out of time, nor at a local optimum.
        """
        for _ in range(rounds):
            if self._harvest.done or self._budget.expired or not self._round():
                return False
        return True

    def _round(self) -> bool:
        clause, last = self._clause, self._state.signs[-1][0]
        weight = self._slope_of_clause()
        wanted = -np.sign(weight)
        held = np.where(last, 1.0, -1.0)
        wrong = np.flatnonzero(wanted * held < 0)
        left = np.array([u for u in wrong if u not in self._tried], dtype=np.int64)
        if not len(left):
            return False
        sets = [self._picked(left, lane) for lane in range(self._options.lanes)]
        if self._size == 1:
            self._tried.update(int(chosen[0]) for chosen in sets if len(chosen) == 1)
        targets = np.tile(np.where(wanted == held, wanted, 0.0), (len(sets), 1))
        for lane, chosen in zip(targets, sets, strict=True):
            lane[chosen] = wanted[chosen]
        fresh = self._forward(self._propagate(targets, np.abs(weight)).astype(np.float64))
        best = int(fresh.margins[:, clause].argmin())
        if fresh.margins[best, clause] < self._state.margins[0, clause]:
            self._state, self._failures = fresh.at(best), 0
            self._tried.clear()
            self._harvest.take(fresh.points[best])
        else:
            self._failures += 1
        if self._failures >= self._options.patience:
            self._size, self._failures = max(1, self._size // 2), 0
        return True

    def _forward(self, points: Float[np.ndarray, "B D"]) -> _State:
        problem = self._problem
        thresholds = problem.forward.network.first.thresholds
        slacks: list[NDArray[np.floating[Any]]] = [thresholds.slack(problem.sums.at(points))]
        for layer in problem.forward.layers:
            slacks.append(layer.slack(slacks[-1] >= 0))
        signs = tuple(slack >= 0 for slack in slacks)
        prop = problem.query.prop
        margins = prop.clause_values(prop.row_margins(problem.forward.from_last(signs[-1])))
        return _State(points, signs, tuple(slacks), margins)

    def _slope_of_clause(self) -> Float[np.ndarray, "U"]:
        """How the clause's margin rises with each of the last signs."""
        last, prop = self._problem.forward.network.last, self._problem.query.prop
        rows = np.flatnonzero(prop.clause == self._clause)
        outputs = self._problem.forward.from_last(self._state.signs[-1])
        row = rows[int(prop.row_margins(outputs)[0, rows].argmax())]
        return np.asarray((prop.rows[row] * last.factor) @ last.weight)

    def _picked(self, wrong: NDArray[np.int64], lane: int) -> NDArray[np.int64]:
        """Signs to turn: those near their thresholds, or any."""
        size = max(1, self._size >> (lane % _HALVINGS))
        keys = self._random.random(len(wrong))
        if self._random.random() < self._options.nearest:
            # The first lanes take the very nearest, the others some of the near ones.
            keys = np.ones(len(wrong)) if lane < _HALVINGS else keys
            keys = keys * np.abs(self._state.slacks[-1][0, wrong] + 1)
        return wrong[np.argsort(keys, kind="stable")[:size]]

    def _propagate(
        self, targets: Float[np.ndarray, "B U"], weight: Float[np.ndarray, "U"]
    ) -> NDArray[np.floating]:
        """The inputs that the targets of the last layer lead to."""
        state, problem = self._state, self._problem
        worth = np.tile(_FLOOR + weight / (weight.mean() + TINY), (len(targets), 1))
        for layer in range(len(self._slopes) - 1, 0, -1):
            reference = np.where(state.signs[layer - 1][0], 1.0, -1.0)
            ends = reference, np.full(len(reference), -1.0), np.ones(len(reference))
            slack = state.slacks[layer][0] + 1.0
            lanes = self._lanes(layer, (targets, worth), slack, np.ones(len(slack)), ends)
            targets = self._solved(lanes)
            worth = influence(lanes, targets, _FLOOR)
        taken = problem.forward.network.first.thresholds.taken[:, 0]
        known = np.zeros(targets.shape)
        known[:, problem.free] = targets[:, problem.free]
        box = state.points[0], problem.lower, problem.upper
        gap = problem.gap[taken]
        return self._solved(self._lanes(0, (known, worth), state.slacks[0][0], gap, box))

    def _lanes(
        self,
        layer: int,
        asked: tuple[Float[np.ndarray, "B U"], Float[np.ndarray, "B U"]],
        slack: Float[np.ndarray, "U"],
        gap: Float[np.ndarray, "U"],
        ends: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]],
    ) -> LayerLanes:
        """One layer's task; `ends` are its variables' reference, lower and upper values."""
        targets, worth = asked
        used = np.flatnonzero((targets != 0).any(axis=0) & np.isfinite(slack))
        reference, lower, upper = (end.astype(np.float32) for end in ends)
        task = LayerTask(
            slope=self._slopes[layer][:, used],
            slack=slack[used].astype(np.float32),
            gap=gap[used].astype(np.float32),
            reference=reference,
            lower=lower,
            upper=upper,
            integer=layer > 0,
        )
        kept = (part[:, used].astype(np.float32) for part in (targets, worth))
        return LayerLanes(task, *kept)

    def _solved(self, lanes: LayerLanes) -> NDArray[np.floating]:
        """The variables' values `[B, V]`."""
        options = self._options
        if options.lanes > 1:
            return by_lanes(lanes, options.steps)
        task = lanes.lane(0)
        if task.integer:
            values = by_search(task, self._random, options.steps)
        else:
            values = by_descent(task, options.steps)
        seconds = min(options.program_seconds, self._budget.remaining)
        return (by_program(task, seconds, values) if seconds > 0 else values)[None]


def _signed(matrix: csr_array, thresholds: Thresholds) -> NDArray[np.float32]:
    """How each unit's slack rises with each variable, `[V, U]`, dense."""
    taken, sense = thresholds.taken[:, 0], thresholds.sense[:, 0]
    return np.asarray(matrix.toarray()[:, taken] * sense, dtype=np.float32)


def iprop(options: AttackOptions) -> IProp:
    """The attack, with a user's sizes: `steps` of a layer's search, `restarts` as rounds."""
    sizes = IPropOptions()
    return IProp(
        replace(sizes, steps=options.steps or sizes.steps, rounds=options.restarts or sizes.rounds)
    )
