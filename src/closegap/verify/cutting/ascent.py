"""Duals of a program with cuts by ascent: what many linear programs are worth, for less.

A bound is passed back from the margin to the inputs, unit after unit, as CROWN does. Where the
coefficient on a ReLU's output is positive a line through zero stands for it, with a slope between 0
and 1; where it is negative, a mixture of the rows that bound the output from above: the line
between the ends of its range, and cuts whose phase is eliminated. Every choice of slopes and
mixtures is feasible for the dual of the program, so it can be climbed on without a solver, and
where the bounds of a climb rest, on average, is where the next cuts are looked for.

Source: De Palma et al., Scaling the convex barrier with active sets, ICLR 2021; cuts of
`closegap.verify.cutting.anderson`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy.sparse import csr_array, diags_array, vstack

from closegap.core.budget import Budget
from closegap.core.errors import OptionError
from closegap.core.numerics import CUT_VIOLATION, SEARCH_EPSILON, TINY
from closegap.encode.expression import place
from closegap.mip.certify import certified_lower_bound
from closegap.verify.cutting.anderson import AndersonCuts, Cuts
from closegap.verify.cutting.program import CutProgram, Rows
from closegap.verify.cutting.rows import phaseless_rows

__all__ = ["ClimbOptions", "Climbed", "HullClimb"]

Array = NDArray[np.float64]
_MOMENTUM, _VARIANCE = 0.9, 0.999


@dataclass(frozen=True)
class ClimbOptions:
    """How to climb.

    Attributes:
        first: steps before the first cuts.
        steps: between cuts.
        rounds: of cuts.
        last: steps after the last cuts.
        slope_rate: Adam's step on slopes.
        mixture_rate: on the logarithms of the shares of a mixture.
        decay: of both, in each step of a round.
        share: of a mixture, what a new row begins with.
        least: rows with a smaller share are dropped.
        stall: cuts end where a round gained less than this share of what is missing.

    Raises:
        OptionError: there is no first step, or the share is not between 0 and 1.
    """

    first: int = 60
    steps: int = 20
    rounds: int = 8
    last: int = 30
    slope_rate: float = 0.2
    mixture_rate: float = 0.3
    decay: float = 0.97
    share: float = 0.3
    least: float = 1e-2
    stall: float = 0.05

    def __post_init__(self) -> None:
        if self.first < 1:
            raise OptionError(f"first must be positive, got {self.first}")
        if not 0 < self.share < 1:
            raise OptionError(f"share must lie between 0 and 1, got {self.share}")


@dataclass(frozen=True, eq=False)
class Climbed:
    """Where a climb ended.

    Attributes:
        program: without cuts.
        cuts: those that carry a dual.
        duals: of the program's rows, then of the cuts.
    """

    program: CutProgram
    cuts: Cuts
    duals: Float[np.ndarray, "R"]

    @property
    def lower(self) -> float:
        """Certified lower bound of the margin."""
        model, cuts = self.program.model, self.cuts
        whole = replace(
            model,
            matrix=csr_array(vstack([model.matrix, cuts.matrix], format="csr")),
            row_lower=np.concatenate([model.row_lower, np.full(len(cuts.upper), -np.inf)]),
            row_upper=np.concatenate([model.row_upper, cuts.upper]),
        )
        return certified_lower_bound(whole, self.duals)

    @property
    def rows(self) -> Rows | None:
        """What the duals say of each ReLU; `None` where no cut carries one."""
        cuts = self.cuts
        return phaseless_rows(self.program, cuts.matrix, cuts.upper, cuts.owner, self.duals)


@dataclass(frozen=True, eq=False)
class _Hull:
    """Rows that bound outputs from above, by unit: `output <= weight . [inputs, outputs] + right`.

    Attributes:
        cuts: what they were made of, sorted by owner.
        weight: `[M, inputs + units]`.
        right: `[M]`.
        taken: how much of the cut, and of the rows of its unit's phase, on and off: `[3, M]`.
    """

    cuts: Cuts
    weight: csr_array
    right: Float[np.ndarray, "M"]
    taken: Float[np.ndarray, "3 M"]

    def part(self, which: Int[np.ndarray, "K"]) -> _Hull:
        cuts = self.cuts
        kept = Cuts(
            csr_array(cuts.matrix[which]), cuts.upper[which], cuts.owner[which],
            cuts.violation[which],
        )  # fmt: skip
        return _Hull(kept, csr_array(self.weight[which]), self.right[which], self.taken[:, which])


@dataclass(frozen=True, eq=False)
class _Passed:
    """One bound: its value, the point it rests on `[inputs + units]`, and what entered each unit.

    `above [M]` and `line [U]` are the values there of the rows and of the lines above each output,
    `fed [U]` those of the units' inputs.
    """

    lower: float
    point: Array
    incoming: Array
    fed: Array
    line: Array
    above: Array


class HullClimb:
    """One clause.

    Args:
        program: without cuts.
        options: how to climb.
    """

    def __init__(self, program: CutProgram, options: ClimbOptions | None = None) -> None:
        self._program, self._options = program, options or ClimbOptions()
        layout, model = program.layout, program.model
        self._inputs, self._count = layout.inputs, layout.units
        self._high, self._low = model.upper[layout.positive], -model.upper[layout.negative]
        self._chord = self._high / (self._high - self._low)
        self._layers = _layers(program.units.weight, layout.inputs)
        self._blocks = [csr_array(program.units.weight[part]) for part in self._layers]
        self._separator = AndersonCuts(program)
        self._hull = self._made(_nothing(layout.columns))
        self._slopes = (self._high > -self._low).astype(np.float64)
        self._shares = np.zeros(self._count), np.zeros(0)  # logarithms: of lines, of rows
        self._kept: tuple[float, _Hull, Array, Array, Array] | None = None

    def run(self, budget: Budget) -> Climbed:
        """Climb, cut off what the bound rests on, climb on; stops where the bound is positive."""
        options, best = self._options, -np.inf
        point = self._climb(options.first, budget)
        for _ in range(options.rounds):
            gained, best = self._best - best, self._best
            if best > 0 or budget.expired or gained < -options.stall * best:
                break
            if not self._cut(point):
                break
            point = self._climb(options.steps, budget)
        if not (self._best > 0 or budget.expired):
            self._climb(options.last, budget)
        return self._result()

    @property
    def _best(self) -> float:
        return -np.inf if self._kept is None else self._kept[0]

    def _climb(self, steps: int, budget: Budget) -> Array:
        """Adam's steps on slopes and mixtures; the mean of the points that bounds rested on."""
        options = self._options
        mean, square = (tuple(np.zeros(len(p)) for p in self._parameters()) for _ in range(2))
        rates = options.slope_rate, options.mixture_rate, options.mixture_rate
        rested = np.zeros(self._inputs + self._count)
        for step in range(1, steps + 1):
            shares = self._mixture()
            passed = self._pass(*shares)
            self._remember(passed.lower, shares)
            rested += (passed.point - rested) / step
            if passed.lower > 0 or budget.expired:
                break
            slow = options.decay**step
            for value, gradient, m, s, rate in zip(
                self._parameters(), self._gradients(passed, *shares), mean, square, rates,
                strict=True,
            ):  # fmt: skip
                m += (1 - _MOMENTUM) * (gradient - m)
                s += (1 - _VARIANCE) * (gradient**2 - s)
                size = np.sqrt(s / (1 - _VARIANCE**step)) + SEARCH_EPSILON
                value += slow * rate * m / (1 - _MOMENTUM**step) / size
            np.clip(self._slopes, 0.0, 1.0, out=self._slopes)
        return rested

    def _parameters(self) -> tuple[Array, Array, Array]:
        return self._slopes, *self._shares

    def _mixture(self) -> tuple[Array, Array]:
        """Shares of lines `[U]` and of rows `[M]`; those of one unit sum to 1."""
        lines, rows = self._shares
        owner = self._hull.cuts.owner
        top = lines.copy()
        np.maximum.at(top, owner, rows)
        line, row = np.exp(lines - top), np.exp(rows - top[owner])
        total = line + np.bincount(owner, row, self._count)
        return line / total, row / total[owner]

    def _pass(self, line: Array, row: Array) -> _Passed:
        """Back to the inputs, and forward with the point where the bound is least."""
        program, inputs = self._program, self._inputs
        hull, owner, bias = self._hull, self._hull.cuts.owner, program.units.bias
        entering, asked = np.zeros(self._count), program.model.cost[: inputs + self._count].copy()
        places = [slice(*np.searchsorted(owner, (p.start, p.stop))) for p in self._layers]
        rows = [csr_array(hull.weight[p]) for p in places]
        for part, block, place_, held in zip(
            self._layers[::-1], self._blocks[::-1], places[::-1], rows[::-1], strict=True
        ):
            entering[part] = asked[inputs + part.start : inputs + part.stop]
            below = np.minimum(entering[part], 0.0)
            through = np.maximum(entering[part], 0.0) * self._slopes[part]
            through += below * line[part] * self._chord[part]
            asked += block.T @ through
            asked += held.T @ (np.minimum(entering[owner[place_]], 0.0) * row[place_])
        below = np.minimum(entering, 0.0)
        model = program.model
        least = np.where(asked[:inputs] > 0, model.lower[:inputs], model.upper[:inputs])
        point = np.concatenate([least, np.zeros(self._count)])
        fed, above = np.zeros(self._count), np.zeros(len(owner))
        for part, block, place_, held in zip(self._layers, self._blocks, places, rows, strict=True):
            fed[part] = block @ point + bias[part]
            above[place_] = held @ point + hull.right[place_]
            mixed = line[part] * self._chord[part] * (fed[part] - self._low[part])
            np.add.at(mixed, owner[place_] - part.start, row[place_] * above[place_])
            value = np.where(entering[part] >= 0, self._slopes[part] * fed[part], mixed)
            point[inputs + part.start : inputs + part.stop] = value
        lower = float(model.cost[: len(point)] @ point) + model.constant
        return _Passed(lower, point, entering, fed, self._chord * (fed - self._low), above)

    def _gradients(self, passed: _Passed, line: Array, row: Array) -> tuple[Array, Array, Array]:
        owner, below = self._hull.cuts.owner, np.minimum(passed.incoming, 0.0)
        mixed = line * passed.line + np.bincount(owner, row * passed.above, self._count)
        return (
            np.maximum(passed.incoming, 0.0) * passed.fed,
            below * line * (passed.line - mixed),
            below[owner] * row * (passed.above - mixed[owner]),
        )

    def _remember(self, lower: float, shares: tuple[Array, Array]) -> None:
        if self._kept is None or lower > self._best:  # the first may be NaN
            self._kept = lower, self._hull, self._slopes.copy(), *shares

    def _cut(self, rested: Array) -> int:
        """Rows that cut off a point, where a bound leans on the unit's upper side."""
        options, layout = self._options, self._program.layout
        line, row = self._mixture()
        kept = np.flatnonzero(row > options.least)
        point = np.zeros(layout.columns)
        point[: len(rested)] = rested
        point[layout.phase] = np.clip(rested[self._inputs :] / self._high, 0.0, 1.0)
        found = self._separator.separate(point, CUT_VIOLATION, self._count)
        fresh = self._made(found)
        self._hull, order = _joined(self._hull.part(kept), fresh)
        share = np.log(options.share / (1 - options.share))
        begun = np.zeros(len(found.owner)) + share
        lines, rows = np.log(line + TINY), np.log(row[kept] + TINY)
        self._shares = lines, np.concatenate([rows, begun])[order]
        return len(found.owner)

    def _made(self, cuts: Cuts) -> _Hull:
        """Rows without the phase, which is bounded by the output or by what was cut off."""
        layout, units = self._program.layout, self._program.units
        owner, width = cuts.owner, layout.inputs + layout.units
        phases = csr_array(cuts.matrix[:, layout.phase])
        gained = -np.asarray(phases.sum(axis=1)).reshape(-1)  # of the bound, by the whole phase
        on = np.maximum(-gained, 0.0) / self._high[owner]
        off = np.maximum(gained, 0.0) / -self._low[owner]
        whole = 1.0 + on + off
        places, one = np.arange(len(owner)), np.ones(len(owner))
        own = place(places, layout.inputs + owner, one, (len(owner), width))
        weight = csr_array(own - cuts.matrix[:, :width])
        weight = csr_array(weight + csr_array(diags_array(off)) @ units.weight[owner])
        right = cuts.upper + off * (units.bias[owner] - self._low[owner])
        scaled = csr_array(csr_array(diags_array(1 / whole)) @ weight)
        return _Hull(cuts, scaled, right / whole, np.stack([one, on, off]) / whole)

    def _result(self) -> Climbed:
        """The duals of the best bound."""
        assert self._kept is not None
        _, self._hull, self._slopes, line, row = self._kept
        hull, owner, count = self._hull, self._hull.cuts.owner, self._count
        entering = self._pass(line, row).incoming
        below = np.maximum(-entering, 0.0)
        cut, on, off = hull.taken * (below[owner] * row)
        on = below * line * (1 - self._chord) + np.bincount(owner, on, count)
        off = below * line * self._chord + np.bincount(owner, off, count)
        fed = np.maximum(entering, 0.0) * self._slopes - off
        used = np.flatnonzero(cut > 0)
        duals = np.concatenate([fed, -on, -off, -cut[used]])
        return Climbed(self._program, hull.part(used).cuts, duals)


def _layers(weight: csr_array, inputs: int) -> list[slice]:
    """Runs of units that read no other unit of the run."""
    count = weight.shape[0]
    row = np.repeat(np.arange(count), np.diff(weight.indptr))
    reads = np.full(count, -1)
    np.maximum.at(reads, row, weight.indices - inputs)
    parts, start = [], 0
    while start < count:
        later = np.flatnonzero(reads[start:] >= start)
        stop = start + int(later[0]) if len(later) else count
        parts.append(slice(start, stop))
        start = stop
    return parts


def _nothing(columns: int) -> Cuts:
    none = np.zeros(0)
    return Cuts(csr_array((0, columns)), none, np.zeros(0, dtype=np.int64), none)


def _joined(first: _Hull, second: _Hull) -> tuple[_Hull, Int[np.ndarray, "M"]]:
    """Both, sorted by owner, and where each row was before."""
    parts = first.cuts, second.cuts
    owner = np.concatenate([part.owner for part in parts])
    order = np.argsort(owner, kind="stable")
    cuts = Cuts(
        csr_array(vstack([part.matrix for part in parts], format="csr")),
        np.concatenate([part.upper for part in parts]),
        owner,
        np.concatenate([part.violation for part in parts]),
    )
    hull = _Hull(
        cuts,
        csr_array(vstack([first.weight, second.weight], format="csr")),
        np.concatenate([first.right, second.right]),
        np.concatenate([first.taken, second.taken], axis=1),
    )
    return hull.part(order), order
