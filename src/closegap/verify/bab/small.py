"""Subdomains with few open units, closed by a small tree of linear programs of their own.

The program of a clause over the region (`verify.cutting.program`) has a phase column for each
unstable ReLU. A subdomain fixes some phases; what is left is a mixed-integer program with as many
binaries as units are open. It is branched here, and not by a mixed-integer solver: every program of
the small tree is bounded from its duals in exact arithmetic (`mip.certify`), and one without points
by its ray, so what counts as closed trusts no solver. Whatever is not closed is split on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from closegap.bounds.intermediate import NetworkBounds
from closegap.core.budget import Budget
from closegap.core.errors import OptionError
from closegap.core.numerics import TINY
from closegap.core.worker import Ended
from closegap.graph.network import Network
from closegap.specs.query import Query
from closegap.verify.bab.problem import SplitProblem
from closegap.verify.cutting.program import CutProgram
from closegap.verify.cutting.region import RegionPrograms, region_programs
from closegap.verify.cutting.relaxation import Fixings, Relaxation

__all__ = ["SmallOptions", "SmallPrograms", "SmallWorth"]

#: Trials may take this share of the search's time.
_TRIALS = 0.1
#: More levels to come are as good as never.
_DEEPEST = 60


@dataclass(frozen=True)
class SmallOptions:
    """Which subdomains are tried.

    Attributes:
        units: at most so many are open, by the bounds of the subdomain; 0 for none.
        programs: linear programs that one subdomain may take.

    Raises:
        OptionError: there is no program.
    """

    units: int = 15
    programs: int = 24

    def __post_init__(self) -> None:
        if self.programs < 1:
            raise OptionError(f"small.programs must be positive, got {self.programs}")


class SmallWorth:
    """Whether a program closes a subdomain sooner than splitting on; measured on the search."""

    def __init__(self) -> None:
        self._seconds, self._closed = 0.0, 0

    def wanted(
        self,
        deficit: Float[np.ndarray, "B"],
        open_: Int[np.ndarray, "B"],
        gain: float,
        each: float,
        nodes: int,
        *,
        trial: bool = True,
    ) -> Bool[np.ndarray, "B"]:
        """Which subdomains to try.

        Those where splitting on is expected to take longer; else one, while trials took no more
        than `_TRIALS` of the search's time.

        Args:
            deficit: how far their bounds are below zero.
            open_: their open units.
            gain: what a split gains, on average: so `2^(deficit / gain)` subdomains are to come,
                and no more than `2^open`.
            each: seconds one subdomain takes.
            nodes: bounded so far.
            trial: one may be tried though it is not expected to pay.
        """
        levels = np.clip(deficit / max(gain, TINY), 1, np.minimum(open_, _DEEPEST))
        spared = each * np.exp2(levels + 1)
        price = self._seconds / self._closed if self._closed else math.inf
        wanted = spared > price
        if trial and self._seconds <= _TRIALS * each * nodes:
            wanted[:1] = True
        return np.asarray(wanted)

    def learn(self, seconds: float, closed: bool) -> None:
        """One was tried."""
        self._seconds += seconds
        self._closed += int(closed)


class SmallPrograms:
    """The programs of one problem's clauses, made when they are first asked for.

    Args:
        query: whose network was prepared; programs are those of clauses of one row over ReLUs.
        problem: roots and units.
        bounds: which the problem rests on.
        options: see `SmallOptions`.
    """

    def __init__(
        self, query: Query, problem: SplitProblem, bounds: NetworkBounds, options: SmallOptions
    ) -> None:
        self.options = options
        self._query, self._problem, self._bounds = query, problem, bounds
        self._programs: RegionPrograms | None = None
        self._numbers = np.zeros(0, np.int64)
        self._by_root: dict[int, Relaxation | None] = {}
        self._begun = False

    def close(
        self,
        root: int,
        units: Int[np.ndarray, "depth"],
        signs: Int[np.ndarray, "depth"],
        budget: Budget,
        ended: Ended = lambda: False,
    ) -> tuple[bool, list[NDArray[np.float64]]]:
        """Try to prove one subdomain.

        Args:
            root: number of its root.
            units: split at zero, padded with -1.
            signs: +1 for on, -1 for off.
            budget: its deadline leaves the subdomain unproved.
            ended: asked after each program; so does this.

        Returns:
            whether the clause cannot be met there, in exact arithmetic; and inputs, flat, at which
            programs had no positive margin.
        """
        relaxation = self._relaxation(root, budget)
        if relaxation is None:
            return False, []
        numbers = np.where(units >= 0, self._numbers[units], -1)
        known = numbers >= 0
        start = Fixings(numbers[known], signs[known] > 0)
        return _closed(
            relaxation, start, self.options.programs, lambda: budget.expired or ended(), budget
        )

    def _relaxation(self, root: int, budget: Budget) -> Relaxation | None:
        if not self._begun:
            self._begun = True
            region, flat = self._problem.exact_region, self._bounds.flat()
            self._programs = region_programs(self._query, region, flat, budget)
            if self._programs is not None:
                self._numbers = _numbers(self._problem, self._programs, self._query.network)
        if root not in self._by_root:
            program: CutProgram | None = None
            if self._programs is not None:
                program = self._programs.program(int(self._problem.clauses[root]))
            self._by_root[root] = None if program is None else Relaxation(program)
        return self._by_root[root]


def _closed(
    relaxation: Relaxation, start: Fixings, most: int, ended: Ended, budget: Budget
) -> tuple[bool, list[NDArray[np.float64]]]:
    """Depth first; the solver goes on from the last basis."""
    waiting, points = [start], list[NDArray[np.float64]]()
    layout = relaxation.program.layout
    for _ in range(most):
        if not waiting:
            return True, points
        fixings = waiting.pop()
        solved = relaxation.solve(fixings, budget)
        if solved.lower > 0:
            continue
        if solved.point is None or ended():
            return False, points
        points.append(relaxation.program.input_of(solved.point))
        off = np.minimum(solved.point[layout.positive], solved.point[layout.negative])
        off[fixings.units] = -1.0
        if not (off >= 0).any():
            return False, points
        unit = int(off.argmax())
        likely = bool(solved.point[layout.positive][unit] >= solved.point[layout.negative][unit])
        waiting += [fixings.also(unit, not likely), fixings.also(unit, likely)]
    return not waiting, points


def _numbers(
    problem: SplitProblem, programs: RegionPrograms, network: Network
) -> Int[np.ndarray, "U"]:
    """Of each unit of the problem its number in the programs; -1 where it has none."""
    there: dict[int, Int[np.ndarray, "N"]] = {}
    first = 0
    for feed in sorted(programs.reduced.origin):
        source, flat = programs.reduced.origin[feed]
        table = np.full(network.nodes[source].size, -1)
        table[flat] = first + np.arange(len(flat))
        there.setdefault(source, table)
        first += len(flat)
    found = np.full(problem.units, -1, np.int64)
    for index, (here, place) in problem.places.items():
        places = np.asarray(place.numpy())
        for layer in problem.layers:
            feed = network.nodes[index].inputs[0] if index else -1
            if index and layer.activation == here and feed in there:
                flat_of = np.full(int(places.max(initial=-1)) + 1, -1)
                flat_of[places[places >= 0]] = np.flatnonzero(places >= 0)
                flat = flat_of[layer.indices.numpy()]
                found[layer.units] = np.where(flat >= 0, there[feed][flat], -1)
    return found
