"""Sigmoid and tanh: enclosed by chords and tangents. A relaxation, never exact."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.special import expit

from closegap.core.numerics import TINY, gamma
from closegap.encode.expression import Expression, place
from closegap.encode.rules.site import Site
from closegap.encode.units import SmoothUnits
from closegap.graph import ops

__all__ = ["encode_smooth"]

_BISECTIONS = 60
_TANGENTS = 3
#: Float operations behind a line's value, generously: the functions themselves included.
_OPERATIONS = 32


@dataclass(frozen=True, eq=False)
class _Curve:
    """An increasing function, convex below 0, concave above, odd around its value at 0."""

    value: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    slope: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    middle: float


_SIGMOID = _Curve(expit, lambda z: expit(z) * expit(-z), 0.5)
_TANH = _Curve(np.tanh, lambda z: 1.0 - np.tanh(z) ** 2, 0.0)


def encode_smooth(op: ops.Sigmoid | ops.Tanh, z: Expression, site: Site) -> Expression:
    """The value of a sigmoid or tanh, in a polygon around its graph.

    Each unit gets a column for its input and one for its output, and up to three lines on either
    side: the chord where it is one-sided, else tangents at points where they are. Tangent points
    are found by bisection from the sound side; every line is moved outward by its rounding.
    """
    site.refuse_phases("sigmoid or tanh")
    curve = _TANH if isinstance(op, ops.Tanh) else _SIGMOID
    lower, upper = site.lower, site.upper
    builder, everywhere = site.builder, np.arange(len(z))
    inputs = builder.add_columns(lower, upper)
    builder.add_rows(builder.picked(inputs) - builder.wide(z), z.constant, z.constant)
    slack = gamma(_OPERATIONS)
    outputs = builder.add_columns(curve.value(lower) - slack, curve.value(upper) + slack)
    below = _lines_below(curve, lower, upper)
    mirrored = _lines_below(curve, -upper, -lower)
    above = [(slope, 2 * curve.middle - cut, used) for slope, cut, used in mirrored]
    for lines, low in ((below, True), (above, False)):
        for slope, intercept, used in lines:
            neurons = np.flatnonzero(used)
            rounding = slack * (1 + np.abs(intercept) + slope * np.maximum(-lower, upper))
            rows = builder.picked(outputs[neurons]) - builder.picked(
                inputs[neurons], slope[neurons]
            )
            bound = (intercept - rounding if low else intercept + rounding)[neurons]
            builder.add_rows(rows, bound if low else -np.inf, np.inf if low else bound)
    site.units.append(
        SmoothUnits(site.node, everywhere, z, inputs, outputs, isinstance(op, ops.Tanh))
    )
    site.inexact.add("a sigmoid or tanh is enclosed by lines")
    return Expression(
        csr_array(place(everywhere, outputs, 1.0, (len(z), builder.columns))), np.zeros(len(z))
    )


_Line = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]


def _lines_below(
    curve: _Curve, lower: NDArray[np.float64], upper: NDArray[np.float64]
) -> list[_Line]:
    """Lines `slope z + intercept <= curve(z)` on `[lower, upper]`, and where each is of use."""
    width = upper - lower
    low, high = curve.value(lower), curve.value(upper)
    steepest = curve.slope(np.clip(0.0, lower, upper))
    chord = np.clip((high - low) / np.maximum(width, TINY), 0.0, steepest)
    chord_below = (lower >= 0) | ((upper > 0) & (chord <= curve.slope(lower)))
    # the last point whose tangent stays below the curve up to `upper`
    left, right = lower.copy(), np.minimum(upper, 0.0)
    last_fits = upper <= 0
    for _ in range(_BISECTIONS):
        point = (left + right) / 2
        fits = curve.slope(point) * (upper - point) + curve.value(point) <= high
        left, right = np.where(fits, point, left), np.where(fits, right, point)
    last = np.where(last_fits, upper, left)
    lines: list[_Line] = [(chord, low - chord * lower, chord_below & (width > 0))]
    for share in np.linspace(0.0, 1.0, _TANGENTS):
        point = lower + share * (last - lower)
        slope = curve.slope(point)
        lines.append((slope, curve.value(point) - slope * point, ~chord_below))
    return lines
