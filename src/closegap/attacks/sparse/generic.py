"""Least distances by a mixed-integer solver: one program for each clause, under one incumbent.

Soundness. A counterexample nearer than the incumbent lies in the region of its distance; there the
activations' bounds hold, and it has a feasible completion whose objective is its distance. Solvers
work to tolerances, so the margin that is asked for is raised by the allowance of MIP proofs, and a
claimed bound is lowered by another before it counts. With the margin raised, a claim of
infeasibility says that no counterexample is nearer than the incumbent. A claim that a replayed
point contradicts is withdrawn.

Sources: Tjeng, Xiao and Tedrake (2019); sparse distances: Ben Mhenni, Ibn Khedher and Canu (2024).
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from closegap.attacks.activation.nearest import Nearest, OnNearer
from closegap.attacks.sparse.conic import ConicSolver, distance_allowance
from closegap.attacks.sparse.incumbent import OnProved, unheard
from closegap.bounds.intermediate import NetworkBounds
from closegap.core.budget import Budget
from closegap.core.errors import EncodingError
from closegap.core.numerics import MIP_BOUND_MARGIN, MIP_RESOLUTION, REPLAY_SLACK
from closegap.core.tolerance import Tolerance
from closegap.encode import EncodeOptions, encode
from closegap.encode.distances import EncodedDistance, encode_distance
from closegap.mip.model import Array, Claim, Emphasis, SolveOptions, Status
from closegap.runtime.cache import compiled
from closegap.specs.distance import DistanceQuery
from closegap.specs.objectives import Objective
from closegap.specs.query import Query
from closegap.specs.region import Box, bounding_box
from closegap.verify.clause_search import bound_allowance
from closegap.verify.incomplete import LinearVerifier
from closegap.verify.resolution import require_visible

__all__ = ["GenericAnswer", "GenericMip"]

#: A solution's margin is pushed below zero by the replay's slack times these.
_OVERSHOOTS = (1.0, 4.0, 16.0)
#: Of the tolerance, how near to the incumbent a bound has to be.
_NEARLY = 0.9
#: The activations' bounds are made anew once the incumbent has shrunk to this share.
_SHRUNK = 0.9


@dataclass(frozen=True)
class GenericMip:
    """How to search.

    Attributes:
        solver: a backend's name, or `None` for the registry's choice.
        emphasis: see `SolveOptions`.
        rounds: of tangents, where the solver knows no cones (l2, isotropic total variation).
        tolerance: a clause is left once its bound is nearly this close to the incumbent, and a
            share is told the solver as well; distances that are whole numbers have their own.
        encode: how the network is written.
    """

    solver: str | None = None
    emphasis: Emphasis = "light"
    rounds: int = 40
    tolerance: Tolerance = field(default_factory=lambda: Tolerance(MIP_BOUND_MARGIN, math.inf))
    encode: EncodeOptions = field(default_factory=EncodeOptions)

    def share(self, objective: Objective) -> float:
        """Of the objective, how near to the optimum solvers may stop: only a share is told them."""
        told = self.tolerance.absolute == math.inf and not objective.integral
        return _NEARLY * self.tolerance.relative if told else 0.0

    def run(
        self,
        query: DistanceQuery,
        budget: Budget,
        judge: OnNearer,
        starts: Sequence[NDArray[np.float32]] = (),
        prove: OnProved = unheard,
    ) -> GenericAnswer:
        """Bracket the least distance.

        Args:
            query: of a network that can be encoded.
            budget: deadline (kept by killing the solver), nodes, seed, threads.
            judge: says of a float32 point and its distance whether it counts.
            starts: counterexamples that are known.
            prove: told of every better lower end.

        Raises:
            MissingDependencyError: no mixed-integer solver is installed.
        """
        run = _Run(self, query, budget, judge, prove)
        for point in starts:
            run.offer(point)
        run.search()
        return run.answer()


@dataclass(frozen=True, eq=False)
class GenericAnswer:
    """What is known of the least distance afterwards.

    Attributes:
        lower: no counterexample is nearer, allowances taken off; infinity where there is none at
            all.
        upper: attained by `witness`; infinity where none was found.
        witness: float32, accepted by the judge, in the network's input shape.
        nodes: branch-and-bound nodes of all programs.
        seconds: wall-clock.
        history: seconds, lower and upper end after every improvement.
        details: one line for each clause that was solved: the solver's words.
        notes: those of clauses that could not be written, or that every solver failed on; and that
            another solver answered than the one asked for.
    """

    lower: float
    upper: float
    witness: NDArray[np.float32] | None
    nodes: int
    seconds: float
    history: tuple[tuple[float, float, float], ...] = ()
    details: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class _Run:
    """One query's programs."""

    def __init__(
        self,
        options: GenericMip,
        query: DistanceQuery,
        budget: Budget,
        judge: OnNearer,
        prove: OnProved,
    ) -> None:
        self._options, self._query, self._budget = options, query, budget
        self._judge, self._prove = judge, prove
        self._begun = time.monotonic()
        self._best = Nearest()
        self._nodes = 0
        self._details: list[str] = []
        self._notes: list[str] = []
        self._history: list[tuple[float, float, float]] = []
        self._prop = query.within(0.0).prop
        size = query.center.size
        nothing, ends = np.zeros((1, size)), (np.zeros(size), np.ones(size))
        floor = query.objective.least(query.center, nothing, np.zeros(1), *ends)
        self._floor = float(floor[0])
        self._lower = np.full(self._prop.clauses, self._floor)
        self._ground: _Ground | None = None
        network = compiled(query.network, torch.float32)
        with torch.no_grad():
            outputs = network(network.tensor(query.image.reshape(1, *query.network.input_shape)))
        self._scale = 1 + float(outputs.abs().max())

    def offer(self, point: NDArray[np.floating]) -> bool:
        """Judge a point of the box; True iff it is nearer than the best and counts."""
        image = np.asarray(point, dtype=np.float64).reshape(-1)
        near = np.abs(image - self._query.center) <= MIP_RESOLUTION
        image = np.clip(np.where(near, self._query.center, image), 0.0, 1.0)
        shaped = image.astype(np.float32).reshape(self._query.network.input_shape)
        distance = self._query.distance(shaped)
        if not (distance < self._best.distance and self._judge(shaped, distance)):
            return False
        self._best = Nearest(distance, shaped)
        self._remember()
        return True

    def search(self) -> None:
        """Every clause under the incumbent of all, the one that is proved farthest last.

        Each has its share of the time. What is left then is for those that had too little, under
        the incumbent that the others found.
        """
        ground = self._prepared()
        everything = np.arange(len(self._prop.rows))
        linear = LinearVerifier(ground.query)
        rows = linear.rows(ground.bounds, self._budget, everything).lower
        margins = self._prop.clause_values(rows[None])[0]
        for clause in np.flatnonzero(margins > 0).tolist():
            self._raise(clause, ground.limit)
        waiting = [c for c in np.argsort(margins, kind="stable").tolist() if not margins[c] > 0]
        while waiting and not self._budget.expired:
            waiting = [
                clause
                for done, clause in enumerate(waiting)
                if self._solve(clause, self._share(len(waiting) - done))
            ]

    def _share(self, clauses: int) -> Budget:
        """For one of so many."""
        return self._budget.within(self._budget.remaining / clauses)

    def _limit(self) -> float:
        """Distances above it need not be found."""
        return self._best.distance - (1 if self._query.objective.integral else 0)

    def _prepared(self) -> _Ground:
        """The incumbent's region and the activations' bounds there, made anew when it shrinks."""
        ground = self._ground
        if ground is None or self._best.distance < ground.shrunk:
            query = self._query.within(0.0)
            limit = self._best.distance
            if math.isfinite(limit):
                query = self._query.within(limit)
            else:
                whole = np.zeros(self._query.network.input_shape)
                query = replace(query, region=Box(whole, whole + 1))
            known = None if ground is None else ground.bounds
            bounds = LinearVerifier(query).activations(self._budget, known)
            self._ground = ground = _Ground(limit, query, bounds)
        return ground

    def _solve(self, clause: int, budget: Budget) -> bool:
        """Solve a clause's program; True iff the time was too short for it."""
        if budget.expired:
            return True
        ground = self._prepared()
        limit = self._limit()
        settings = replace(self._options.encode, deadline=budget.deadline)
        try:
            network = encode(ground.boxed, ground.flat, clause=clause, options=settings)
            require_visible(network)
        except EncodingError as error:
            self._note(f"clause {clause}: {error}")
            return False
        asked, query = bound_allowance(network), self._query
        program = encode_distance(network, query.objective, query.center, margin=asked, limit=limit)
        allowance = distance_allowance(program.model)
        solver = ConicSolver(self._options.solver, self._options.rounds)
        seen: list[float] = []
        options = SolveOptions(
            time_limit=budget.remaining,
            node_limit=budget.nodes,
            threads=budget.threads,
            seed=budget.seed,
            start=self._start(program),
            stop_at_bound=limit + allowance - self._gap(limit),
            gap=self._options.share(query.objective),
            on_incumbent=lambda values, _: self._repair(program, values, solver),
            on_bound=seen.append,
            interrupted=lambda: bool(seen) and self._near_enough(max(seen) - allowance),
            emphasis=self._options.emphasis,
        )
        claim, words, answered = solver.solve(program.model, options)
        self._nodes += claim.nodes
        if claim.status is Status.FAILED:
            self._note(f"clause {clause}: {words}")
        else:
            self._details.append(f"clause {clause}: {words}")
            if self._options.solver is not None and answered != self._options.solver:
                self._exchanged(answered, words)
        self._judge_claim(clause, claim, allowance, limit)
        return claim.status is Status.TIME and not self._near_enough(float(self._lower[clause]))

    def _near_enough(self, bound: float) -> bool:
        """Whether a bound closes its clause: the solver knows no witness that was repaired."""
        return self._best.found and bound >= self._limit() - self._gap(self._limit())

    def _gap(self, limit: float) -> float:
        """How far below the limit a bound is enough."""
        if self._query.objective.integral:
            return MIP_BOUND_MARGIN
        return max(_NEARLY * self._options.tolerance.width(limit), MIP_BOUND_MARGIN)

    def _exchanged(self, answered: str, words: str) -> None:
        """Say once that another solver answered than the one asked for."""
        if not self._notes:
            self._notes.append(f"{self._options.solver} did not answer, {answered} did: {words}")

    def _note(self, words: str) -> None:
        self._details.append(words)
        self._notes.append(f"mip: {words}")

    def _start(self, program: EncodedDistance) -> Array | None:
        if self._best.point is None:
            return None
        start = program.start_from(self._best.point)
        return start if program.model.violation(start) <= MIP_RESOLUTION else None

    def _repair(self, program: EncodedDistance, values: Array, solver: ConicSolver) -> None:
        """The nearest point of a solution's cell with a margin that survives rounding."""
        for overshoot in _OVERSHOOTS if self._budget.remaining > 0 else ():
            cell = program.in_cell(values, -overshoot * self._slack)
            point = solver.nearest(cell, self._budget)
            if point is None:
                return
            if self.offer(point[program.network.inputs]):
                return

    def _judge_claim(self, clause: int, claim: Claim, allowance: float, limit: float) -> None:
        if claim.status in (Status.FAILED, Status.UNBOUNDED) or math.isnan(claim.bound):
            return
        infeasible = claim.status is Status.INFEASIBLE
        reached = limit if infeasible else min(claim.bound - allowance, limit)
        if self._query.objective.integral and math.isfinite(reached):
            reached = limit + 1 if reached >= limit else math.ceil(reached)
        if reached > self._best.distance:
            self._details.append(f"clause {clause}: the bound is above an attained distance")
            reached = self._floor if self._breaks(clause) else self._best.distance
        self._raise(clause, reached)

    def _breaks(self, clause: int) -> bool:
        """Whether the best point breaks this clause."""
        network = compiled(self._query.network, torch.float64)
        assert self._best.point is not None
        with torch.no_grad():
            outputs = network(network.tensor(self._best.point[None])).numpy()
        values = self._prop.clause_values(self._prop.row_margins(outputs))
        return bool(values[0, clause] <= 0)

    def _raise(self, clause: int, value: float) -> None:
        if value > self._lower[clause]:
            self._lower[clause] = value
            self._remember()
            self._prove(min(self.lower, self._best.distance))

    def _remember(self) -> None:
        ends = (min(self.lower, self._best.distance), self._best.distance)
        self._history.append((time.monotonic() - self._begun, *ends))

    @property
    def lower(self) -> float:
        """No counterexample of any clause is nearer."""
        return float(self._lower.min(initial=math.inf))

    @property
    def _slack(self) -> float:
        return REPLAY_SLACK * self._scale

    def answer(self) -> GenericAnswer:
        """The bracket as it stands."""
        return GenericAnswer(
            min(self.lower, self._best.distance),
            self._best.distance,
            self._best.point,
            self._nodes,
            time.monotonic() - self._begun,
            tuple(self._history),
            tuple(self._details),
            tuple(self._notes),
        )


@dataclass(frozen=True, eq=False)
class _Ground:
    """Bounds of the activations in the region of a distance; with no limit, in the whole box."""

    limit: float
    query: Query
    bounds: NetworkBounds

    @property
    def shrunk(self) -> float:
        """From which limit on bounds are made anew; a limit may be negative."""
        return min(_SHRUNK * self.limit, (2 - _SHRUNK) * self.limit)

    @property
    def boxed(self) -> Query:
        """The query in the region's box: distances are rows of their own."""
        return replace(self.query, region=bounding_box(self.query.region))

    @property
    def flat(self) -> dict[int, tuple[Array, Array]]:
        """The bounds as arrays."""
        return {
            i: (b.lower[0].flatten().numpy(), b.upper[0].flatten().numpy())
            for i, b in self.bounds.activations.items()
        }
