"""Sign: one binary a unit, or two where the sign of 0 is 0."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from closegap.encode.expression import Expression, place
from closegap.encode.rules.site import Site
from closegap.encode.units import NoPhases, Phases, SignUnits, ZeroSignUnits
from closegap.graph import ops

__all__ = ["encode_sign"]


def encode_sign(op: ops.Sign, z: Expression, site: Site) -> Expression:
    """The value of a sign.

    A unit is decided where its bounds leave one sign only. Fixed phases mean `z >= 0` (on) and
    `z <= 0` (off), gap included. A proof works with the closure of the sign's graph, widened by
    the gap: at `|z| <= gap` either sign is allowed, so neither the solver's tolerance nor a
    rounding of z can hide a point. An attack stays clear of 0 by the gap instead.

    Source: Ivashchenko et al. (MILP of binarized networks); `sign(0)` as in `ops.Sign`.
    """
    encode = _with_zero if op.at_zero == 0 else _one_binary
    return encode(z, site, op.at_zero)


def _gap(site: Site, neurons: NDArray[np.int64]) -> NDArray[np.float64]:
    scale = np.maximum(1.0, np.maximum(-site.lower[neurons], site.upper[neurons]))
    return np.asarray(site.sign_gap * scale)


def _one_binary(z: Expression, site: Site, at_zero: int) -> Expression:
    """`at_zero` is +1 or -1: `z >= gap` where the binary is 1, `z <= -gap` where it is 0."""
    on = site.lower >= 0 if at_zero > 0 else site.lower > 0
    off = site.upper < 0 if at_zero > 0 else site.upper <= 0
    _fix(z, site, ~on & ~off)
    on, off = on | (site.phase > 0), off | (site.phase < 0)
    neurons = np.flatnonzero(~on & ~off)
    builder, undecided = site.builder, z.rows(neurons)
    lower, upper = site.lower[neurons], site.upper[neurons]
    gap = np.minimum(_gap(site, neurons), np.maximum(upper, -lower))
    integer = not site.relax
    columns = builder.add_columns(np.zeros(len(neurons)), np.ones(len(neurons)), integer=integer)
    # z >= lower + (gap - lower) s  and  z <= -gap + (upper + gap) s
    wide, constant = builder.wide(undecided), undecided.constant
    builder.add_rows(wide - builder.picked(columns, gap - lower), lower - constant, np.inf)
    builder.add_rows(wide - builder.picked(columns, upper + gap), -np.inf, -gap - constant)
    phases = NoPhases if site.relax else Phases(site.node, neurons, columns)
    site.units.append(SignUnits(site.node, neurons, undecided, columns, phases))
    constant = np.where(on, 1.0, -1.0)
    return Expression(place(neurons, columns, 2.0, (len(z), builder.columns)), constant)


def _with_zero(z: Expression, site: Site, at_zero: int) -> Expression:
    """`at_zero` is 0: the value is `on - off`, and `z = 0` (within the gap) where both are 0."""
    on, off = site.lower > 0, site.upper < 0
    _fix(z, site, ~on & ~off)
    on, off = on | (site.phase > 0), off | (site.phase < 0)
    neurons = np.flatnonzero(~on & ~off)
    builder, undecided = site.builder, z.rows(neurons)
    lower, upper = site.lower[neurons], site.upper[neurons]
    gap = np.minimum(_gap(site, neurons), np.maximum(upper, -lower))
    count, integer = len(neurons), not site.relax
    plus = builder.add_columns(np.zeros(count), np.ones(count), integer=integer)
    minus = builder.add_columns(np.zeros(count), np.ones(count), integer=integer)
    wide, constant = builder.wide(undecided), undecided.constant
    # on: z >= gap; off: z <= -gap; neither: -slack <= z <= slack
    slack = np.maximum(-gap, 0.0)
    low = wide - builder.picked(plus, gap + slack) - builder.picked(minus, lower + slack)
    builder.add_rows(low, -slack - constant, np.inf)
    high = wide - builder.picked(plus, upper - slack) + builder.picked(minus, gap + slack)
    builder.add_rows(high, -np.inf, slack - constant)
    builder.add_rows(builder.picked(plus) + builder.picked(minus), -np.inf, 1.0)
    phases = NoPhases if site.relax else Phases(site.node, neurons, plus)
    site.units.append(ZeroSignUnits(site.node, neurons, undecided, plus, minus, phases))
    shape = (len(z), builder.columns)
    matrix = place(neurons, plus, 1.0, shape) - place(neurons, minus, 1.0, shape)
    return Expression(matrix, np.where(on, 1.0, np.where(off, -1.0, 0.0)))


def _fix(z: Expression, site: Site, undecided: NDArray[np.bool_]) -> None:
    gap = _gap(site, np.arange(len(z)))
    on, off = undecided & (site.phase > 0), undecided & (site.phase < 0)
    site.builder.add_expression_rows(z.rows(on), gap[on], np.inf)
    site.builder.add_expression_rows(z.rows(off), -np.inf, -gap[off])
