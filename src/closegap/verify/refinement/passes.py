"""Lower bounds of single rows of a dense ReLU chain, each under splits of its own.

One leaf is one row (a neuron, or minus a neuron) and the signs that some undecided neurons before
it are given. Backward passes take many leaves at a time, of any rows; undecided neurons come first
in every layer and active ones behind them, so lines are drawn around the first few columns only.
A split adds its constraint with a multiplier where the pass meets the neuron, as in beta-CROWN.
Slopes and multipliers are sought in float32; what counts is one pass in float64 with its rounding
subtracted. A row loses at most `(|A_j| + beta_j) . size_j` in the layers it crosses, see
`layered.dense`.

Source: Wang et al., beta-CROWN, 2021.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from closegap.bounds.regions import InputSet, least, underflow
from closegap.core.budget import Budget
from closegap.core.numerics import FLOAT64_UNIT, TINY, gamma
from closegap.verify.layered.dense import CROSSING

__all__ = ["Leaves", "RowBounds", "RowPasses", "Stage"]

#: First steps of slopes (sign by sign) and of multipliers (in units of the row's coefficients), and
#: what is left of a step after each.
_SLOPE_RATE, _MULTIPLIER_RATE, _DECAY = 0.5, 0.5, 0.85
#: Leaves taken at a time; more save no more calls.
_AT_ONCE = 1024


@dataclass(frozen=True, eq=False)
class Stage:
    """An affine layer and its ReLUs: U undecided neurons, then active ones; inactive ones left out.

    Attributes:
        weight: float64 `[N, M]`, by the neurons of the stage before.
        bias: float64 `[N]`.
        chord: slope of the lines above the undecided neurons, float64 `[U]`.
        intercept: of these lines, float64 `[U]`.
        most: greatest absolute values, float64 `[N]`.
        size: what rows lose to rounding, see `lost_by_rows`, `[N]`.
    """

    weight: Float[Tensor, "N M"]
    bias: Float[Tensor, "N"]
    chord: Float[Tensor, "U"]
    intercept: Float[Tensor, "U"]
    most: Float[Tensor, "N"]
    size: Float[Tensor, "N"]

    @property
    def units(self) -> int:
        """Undecided neurons (U)."""
        return len(self.chord)

    def to(self, dtype: torch.dtype) -> Stage:
        """The same in another dtype."""
        parts = (self.weight, self.bias, self.chord, self.intercept, self.most, self.size)
        return Stage(*(part.to(dtype) for part in parts))


@dataclass(frozen=True, eq=False)
class Leaves:
    """Splits and warm starts of M leaves, by the undecided neurons of all stages.

    Attributes:
        signs: +1 or -1 where a neuron is split, else 0, int8 `[M, U]`.
        slopes: of lower lines, float32.
        multipliers: of splits, float32, not negative.
    """

    signs: Int[Tensor, "M U"]
    slopes: Float[Tensor, "M U"]
    multipliers: Float[Tensor, "M U"]

    def select(self, which: Tensor | slice) -> Leaves:
        """Some of them."""
        return Leaves(self.signs[which], self.slopes[which], self.multipliers[which])

    def join(self, other: Leaves) -> Leaves:
        """Of both, one after the other."""
        pairs = zip(self._parts, other._parts, strict=True)
        return Leaves(*(torch.cat(pair) for pair in pairs))

    @property
    def _parts(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.signs, self.slopes, self.multipliers


@dataclass(frozen=True, eq=False)
class RowBounds:
    """What passes found of M leaves.

    Attributes:
        lower: proved, float64 `[M]`.
        leaves: with the slopes and multipliers behind it.
        losses: what the chord of each undecided neuron that is not split costs, float32 `[M, U]`.
        points: where the planes are least, float32 `[M, D]`.
    """

    lower: Float[Tensor, "M"]
    leaves: Leaves
    losses: Float[Tensor, "M U"]
    points: Float[Tensor, "M D"]


@dataclass(frozen=True, eq=False)
class _Lines:
    """Around the undecided neurons of one stage, by leaf, `[M, U]` each."""

    signs: Tensor
    least: Tensor
    most: Tensor
    chord: Tensor
    intercept: Tensor

    @classmethod
    def of(cls, stage: Stage, signs: Tensor) -> _Lines:
        on, free = (signs > 0).to(stage.chord.dtype), signs == 0
        return cls(
            signs.to(stage.chord.dtype),
            on,
            torch.maximum(on, free.to(on.dtype)),
            torch.where(free, stage.chord, on),
            torch.where(free, stage.intercept, 0.0),
        )

    def within(self, slopes: Tensor) -> Tensor:
        """Slopes that lower lines may have."""
        return torch.minimum(torch.maximum(slopes, self.least), self.most)


@dataclass(frozen=True, eq=False)
class _Climb:
    """Slopes, multipliers, and the coefficients that met the lines, by stage, `[M, U]` each."""

    slopes: list[Tensor]
    pulls: list[Tensor]
    met: list[Tensor]

    def where_better(self, better: Tensor, other: _Climb) -> _Climb:
        """This one's where leaves are better, else the other's."""
        return _Climb(
            *(
                [torch.where(better[:, None], n, o) for n, o in zip(new, old, strict=True)]
                for new, old in (
                    (self.slopes, other.slopes),
                    (self.pulls, other.pulls),
                    (self.met, other.met),
                )
            )
        )


class RowPasses:
    """Backward passes through the stages before a layer.

    Args:
        stages: the first one reads the input.
        region: a box `[1, D]`, float64.
        layers: of the whole network, for rounding.
    """

    def __init__(self, stages: Sequence[Stage], region: InputSet, layers: int) -> None:
        self._exact = list(stages)
        self._rough = [stage.to(torch.float32) for stage in stages]
        self._region = region
        self._middle = ((region.lower + region.upper) / 2)[0]
        self._half = ((region.upper - region.lower) / 2)[0]
        self._layers = layers
        self._sizes = [stage.units for stage in stages]
        widths = sum(len(stage.bias) + 8 for stage in stages) + len(self._half)
        reach = torch.maximum(region.lower.abs(), region.upper.abs())
        total = sum((float(stage.most.sum()) for stage in stages), float(reach.sum()) + 4.0)
        self._vanished = underflow(torch.float64) * widths * total * layers

    @property
    def units(self) -> int:
        """Undecided neurons of all stages."""
        return sum(self._sizes)

    def start(self, count: int) -> Leaves:
        """Leaves without splits; slopes of least area."""
        chords = torch.cat([stage.chord for stage in self._rough])
        slopes = (chords >= 0.5).float().expand(count, -1)
        signs = torch.zeros(count, self.units, dtype=torch.int8)
        return Leaves(signs, slopes, torch.zeros(count, self.units))

    def values(self, points: Float[Tensor, "M D"]) -> Float[Tensor, "M N"]:
        """Outputs of the last stage at points, both float32."""
        for stage in self._rough:
            points = (points @ stage.weight.T + stage.bias).relu()
        return points

    def bound(
        self,
        rows: Float[Tensor, "M N"],
        constants: Float[Tensor, "M"],
        leaves: Leaves,
        iterations: int,
        budget: Budget | None = None,
    ) -> RowBounds:
        """Bound rows over the last stage's outputs, each under its leaf's splits.

        Args:
            rows: float64.
            constants: float64.
            leaves: and where to start from.
            iterations: evaluations while slopes and multipliers are sought, one at least.
            budget: leaves that its deadline leaves no time for get minus infinity, and nothing to
                split; `None` for no limit.
        """
        limit = Budget() if budget is None else budget
        parts = []
        for first in range(0, len(rows), _AT_ONCE):
            which = slice(first, first + _AT_ONCE)
            some = leaves.select(which)
            if limit.expired:
                parts.append(self._unbounded(some))
                continue
            parts.append(self._part(rows[which], constants[which], some, iterations, limit))
        found = parts[0].leaves
        for part_found in parts[1:]:
            found = found.join(part_found.leaves)
        return RowBounds(
            torch.cat([p.lower for p in parts]),
            found,
            torch.cat([p.losses for p in parts]),
            torch.cat([p.points for p in parts]),
        )

    def _unbounded(self, leaves: Leaves) -> RowBounds:
        """Of leaves that there was no time for."""
        count = len(leaves.signs)
        lower = torch.full((count,), -torch.inf, dtype=torch.float64)
        points = self._middle.float().expand(count, -1)
        return RowBounds(lower, leaves, torch.zeros(count, self.units), points)

    def _part(
        self, rows: Tensor, constants: Tensor, leaves: Leaves, iterations: int, budget: Budget
    ) -> RowBounds:
        signs = leaves.signs.split(self._sizes, dim=1)
        found, losses = self._climbed(rows.float(), constants.float(), leaves, iterations, budget)
        lines = [_Lines.of(s, part) for s, part in zip(self._exact, signs, strict=True)]
        slopes = [
            line.within(part.double())
            for line, part in zip(lines, found.slopes.split(self._sizes, dim=1), strict=True)
        ]
        pulls = [m.double() for m in found.multipliers.split(self._sizes, dim=1)]
        rounding = gamma(CROSSING * self._layers) * constants.abs() + self._vanished
        for stage, line, slope, pull in reversed(
            list(zip(self._exact, lines, slopes, pulls, strict=True))
        ):
            rounding = rounding + rows.abs() @ stage.size + pull @ stage.size[: stage.units]
            rows, constants, _ = _crossed(stage, line, slope, pull, rows, constants)
        value, lost = least(self._region, rows[:, None])
        total = value[:, 0] + constants
        total = total - 2 * (lost[:, 0] + rounding) - 4 * FLOAT64_UNIT * total.abs()
        points = torch.addcmul(self._middle, rows.sign(), self._half, value=-1).float()
        return RowBounds(torch.where(total.isfinite(), total, -torch.inf), found, losses, points)

    def _climbed(
        self, rows: Tensor, constants: Tensor, leaves: Leaves, iterations: int, budget: Budget
    ) -> tuple[Leaves, Tensor]:
        """Each leaf's slopes and multipliers of the best bound seen, and what its chords cost."""
        signs = leaves.signs.split(self._sizes, dim=1)
        lines = [_Lines.of(s, part) for s, part in zip(self._rough, signs, strict=True)]
        slopes = [
            line.within(part)
            for line, part in zip(lines, leaves.slopes.split(self._sizes, dim=1), strict=True)
        ]
        now = _Climb(slopes, list(leaves.multipliers.split(self._sizes, dim=1)), [])
        middle, half = self._middle.float(), self._half.float()
        last = max(1, iterations) - 1
        for count in range(last + 1):
            planes, constant, met = self._planes(rows, constants, lines, now)
            now = _Climb(now.slopes, now.pulls, met)
            value = constant + planes @ middle - planes.abs() @ half
            if not count:
                best, kept = value, now
                scales = [part.abs().mean(dim=1, keepdim=True) for part in met]
            else:
                kept = now.where_better(value > best, kept)
                best = torch.maximum(best, value)
            if budget.expired:
                break
            if count < last:
                pull_rates = [scale * (_MULTIPLIER_RATE * _DECAY**count) for scale in scales]
                corner = middle - planes.sign() * half
                now = self._moved(corner, now, lines, _SLOPE_RATE * _DECAY**count, pull_rates)
        losses = [
            part.clamp(max=0).neg() * line.intercept
            for part, line in zip(kept.met, lines, strict=True)
        ]
        leaves = Leaves(leaves.signs, torch.cat(kept.slopes, dim=1), torch.cat(kept.pulls, dim=1))
        return leaves, torch.cat(losses, dim=1)

    def _planes(
        self, rows: Tensor, constant: Tensor, lines: list[_Lines], now: _Climb
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Rows as planes over the input, their constants, and the coefficients met on the way."""
        met: list[Tensor] = []
        for place in range(len(lines) - 1, -1, -1):
            stage, line = self._rough[place], lines[place]
            slope, pull = now.slopes[place], now.pulls[place]
            rows, constant, part = _crossed(stage, line, slope, pull, rows, constant)
            met.append(part)
        return rows, constant, met[::-1]

    def _moved(
        self,
        values: Tensor,
        now: _Climb,
        lines: list[_Lines],
        rate: float,
        pull_rates: list[Tensor],
    ) -> _Climb:
        """Slopes and multipliers one step up each leaf's bound, by the inputs where it is least."""
        slopes, pulls = [], []
        for place, (stage, line) in enumerate(zip(self._rough, lines, strict=True)):
            part, slope = now.met[place], now.slopes[place]
            inner = values @ stage.weight.T + stage.bias
            open_ = inner[:, : stage.units]
            upward = (part.clamp(min=0) * open_).sign_()
            slopes.append(line.within(torch.add(slope, upward, alpha=rate)))
            size = open_.abs().mean(dim=1, keepdim=True).clamp(min=TINY)
            step = (open_ / size).clamp_(-1, 1).mul_(line.signs).mul_(pull_rates[place])
            pulls.append((now.pulls[place] - step).clamp_(min=0))
            above = torch.addcmul(line.intercept, line.chord, open_)
            shown = torch.where(part > 0, slope * open_, above)
            values = torch.cat([shown, inner[:, stage.units :]], dim=1)
        return _Climb(slopes, pulls, now.met)


def _crossed(
    stage: Stage, line: _Lines, slope: Tensor, pull: Tensor, rows: Tensor, constant: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows over the outputs of a stage as rows over its inputs, and what met its lines."""
    open_ = rows[:, : stage.units]
    negative = open_.clamp(max=0)
    constant = constant + (negative * line.intercept).sum(dim=1)
    inner = torch.addcmul((open_ - negative) * slope, negative, line.chord)
    inner = torch.addcmul(inner, pull, line.signs, value=-1)
    rows = torch.cat([inner, rows[:, stage.units :]], dim=1)
    return rows @ stage.weight, constant + rows @ stage.bias, open_
