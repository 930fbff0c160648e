"""Batch normalisation, scaling and signs folded into thresholds, in rational arithmetic.

A unit's condition is `A s + C >= 0` for a sum `s`: with `A > 0` that is `s >= -C / A`, with `A < 0`
it is `-s >= C / A`, both closed because sign(0) = +1. An integer sum of `n` signs has the parity of
`n`, so its threshold is the next number of that parity.

Floating-point evaluation of a condition is monotone in an integer sum, so it agrees with the exact
one on every input iff it does at the two sums next to the threshold; a network for which that fails
is refused. Source: Courbariaux et al., Binarized Neural Networks (2016), section 1.5.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from closegap.core.errors import EncodingError
from closegap.core.numerics import gamma
from closegap.graph.binarized.products import FLOAT64_DIGITS
from closegap.graph.binarized.records import Thresholds
from closegap.graph.binarized.trail import Step, Trail

__all__ = ["Sums", "fold"]


@dataclass(frozen=True, eq=False)
class Sums:
    """What is known of a layer's sums before their thresholds.

    Attributes:
        scale: of each sum: the layer's values are `scale * sum + bias`.
        bias: of each.
        fan_in: of each, for integer sums; `None` where sums are real.
        name: of the layer, for messages.
    """

    scale: NDArray[np.float64]
    bias: NDArray[np.float64]
    fan_in: NDArray[np.int64] | None
    name: str


def fold(sums: Sums, trail: Trail, at_zero: int) -> Thresholds:
    """The thresholds of signs that end a trail from a layer's sums.

    Args:
        sums: the layer.
        trail: from its sums to the signs' inputs.
        at_zero: the sign of 0.

    Raises:
        EncodingError: an input of a sign may be zero and its sign is not +1, or float64 takes the
            other side of a threshold than exact arithmetic, or cannot hold one.
    """
    taken, before, after = _windows(trail)
    first = Step(sums.scale[taken], sums.bias[taken])
    fan_in = np.full(taken.shape, -1) if sums.fan_in is None else sums.fan_in[taken]
    widened = [Step(_wide(s.factor, taken), _wide(s.offset, taken)) for s in after]
    steps = [first, *before, *widened]
    columns = np.stack(
        [fan_in.astype(np.float64), *(a for s in steps for a in (s.factor, s.offset))]
    ).reshape(1 + 2 * len(steps), -1)
    unique, which = np.unique(columns, axis=1, return_inverse=True)
    found = [_threshold(column, at_zero, sums.name) for column in unique.T]
    which = which.reshape(taken.shape)
    rise = np.ones(len(taken))
    for step in after:
        rise = rise * np.sign(step.factor)
    edges = [_edges(threshold) for _, threshold in found]
    return Thresholds(
        taken=taken,
        sense=np.array([sense for sense, _ in found], dtype=np.int64)[which],
        low=np.array([low for low, _ in edges])[which],
        high=np.array([high for _, high in edges])[which],
        exact=tuple(t if isinstance(t, Fraction) else None for _, t in found),
        which=which,
        any_of=rise >= 0,
    )


def _windows(trail: Trail) -> tuple[NDArray[np.int64], list[Step], list[Step]]:
    """Sums a unit reads `[U, k]`, steps before the maximum `[U, k]`, and after it `[U]`."""
    units = trail.where.reshape(-1)
    after = [step.moved(np.ravel) for step in trail.steps]
    if trail.windows is None:
        return units[:, None], [], after
    rows, before = trail.windows
    return rows[units], [step.moved(lambda a: a[units]) for step in before], after


def _wide(values: NDArray[np.float64], like: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.broadcast_to(values[:, None], like.shape)


def _threshold(
    column: NDArray[np.float64], at_zero: int, name: str
) -> tuple[int, Fraction | float]:
    """The sense and the exact threshold of one unit's condition."""
    fan_in, pairs = int(column[0]), column[1:].reshape(-1, 2)
    slope, constant = Fraction(1), Fraction(0)
    for factor, offset in pairs.tolist():
        slope, constant = slope * Fraction(factor), constant * Fraction(factor) + Fraction(offset)
    if slope == 0:
        if constant == 0 and at_zero != 1:
            raise EncodingError(f"layer '{name}': sign(0) is not +1 and a sign's input is always 0")
        return 1, -math.inf if constant >= 0 else math.inf
    sense = 1 if slope > 0 else -1
    edge = -constant / abs(slope)
    if fan_in < 0:
        if at_zero != 1:
            raise EncodingError(f"layer '{name}': sign(0) is not +1 and its inputs are real")
        if abs(edge) > sys.float_info.max:
            raise EncodingError(f"layer '{name}': a threshold is beyond float64's range")
        return sense, edge
    least = _of_parity(edge, fan_in)
    if at_zero != 1 and edge == least and abs(least) <= fan_in:
        raise EncodingError(f"layer '{name}': sign(0) is not +1 and a sign's input may be 0")
    _require_agreement(pairs, fan_in, sense, least, name)
    return sense, Fraction(least)


def _of_parity(edge: Fraction, fan_in: int) -> int:
    """The least integer of `fan_in`'s parity at or above the edge, cut to what sums can miss."""
    least = math.ceil(edge)
    least += (least - fan_in) % 2
    return min(max(least, -fan_in), fan_in + 2)


def _require_agreement(
    pairs: NDArray[np.float64], fan_in: int, sense: int, least: int, name: str
) -> None:
    """Evaluate the condition in float64 at the sums on both sides of the threshold."""
    for total in (least, least - 2):
        if abs(total) > fan_in:
            continue
        if _rounded(pairs.tolist(), sense * total, fan_in) != (total == least):
            raise EncodingError(
                f"layer '{name}': at a sum of {sense * total} rounding decides the sign; "
                "the integer form and floating point would disagree"
            )


def _rounded(pairs: Sequence[Sequence[float]], total: int, fan_in: int) -> bool | None:
    """The sign of one sum in float64; `None` where the order of summation could change it."""
    scale, bias = pairs[0]
    value, reach = scale * total + bias, abs(scale) * fan_in + abs(bias)
    for factor, offset in pairs[1:]:
        value, reach = factor * value + offset, abs(factor) * reach + abs(offset)
    ordered = _exact_in_any_order(scale, bias, fan_in)
    safe = ordered or abs(value) > 2 * gamma(fan_in + 2 * len(pairs) + 2) * reach
    return value >= 0 if safe else None


def _exact_in_any_order(scale: float, bias: float, fan_in: int) -> bool:
    """Whether float64 holds `bias` and so many terms of `scale` up, added one after the other.

    All partial sums are multiples of the last binary digit of the two numbers.
    """
    (size, under), (added, below) = scale.as_integer_ratio(), bias.as_integer_ratio()
    grid = max(under, below)  # powers of two
    size, added = abs(size) * (grid // under), abs(added) * (grid // below)
    last = (size | added) & -(size | added)
    return fan_in * size + added <= last << FLOAT64_DIGITS


def _edges(threshold: Fraction | float) -> tuple[float, float]:
    """The float64 numbers around a threshold."""
    near = float(threshold)
    if isinstance(threshold, float) or Fraction(near) == threshold:
        return near, near
    if Fraction(near) < threshold:
        return near, float(np.nextafter(near, math.inf))
    return float(np.nextafter(near, -math.inf)), near
