"""ReLU and leaky ReLU: `z = positive - negative`, decided by one binary.

Written this way the (long) row of the pre-activation appears once, not twice as in the usual
big-M form; big-M rows have two entries each.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array

from closegap.encode.expression import Expression, place, scaled
from closegap.encode.rules.site import Site
from closegap.encode.units import NoPhases, Phases, SplitUnits
from closegap.graph import ops

__all__ = ["encode_split"]


def encode_split(op: ops.Relu | ops.LeakyRelu, z: Expression, site: Site) -> Expression:
    """The value of a (leaky) ReLU.

    Decided neurons are substituted. An undecided one gets columns `0 <= positive <= u`,
    `0 <= negative <= -l` with `z = positive - negative`, and
    `positive <= u s`, `negative <= -l (1 - s)`; its value is `positive - slope * negative`.
    Relaxed, the binary is eliminated: `positive / u + negative / -l <= 1`, the triangle.

    Source: Tjeng et al., Evaluating Robustness of Neural Networks with Mixed Integer
    Programming (2019), section 4.1, rewritten.
    """
    slope = op.slope if isinstance(op, ops.LeakyRelu) else 0.0
    site.fix_phases(z)
    on = (site.lower >= 0) | (site.phase > 0)
    off = ~on & ((site.upper <= 0) | (site.phase < 0))
    neurons = np.flatnonzero(~on & ~off)
    builder = site.builder
    undecided = z.rows(neurons)
    lower, upper = site.lower[neurons], site.upper[neurons]
    zeros = np.zeros(len(neurons))
    positive = builder.add_columns(zeros, upper)
    negative = builder.add_columns(zeros, -lower)
    builder.add_rows(
        builder.picked(positive) - builder.picked(negative) - builder.wide(undecided),
        undecided.constant,
        undecided.constant,
    )
    phases = NoPhases
    if site.relax:
        width = upper - lower
        triangle = builder.picked(positive, -lower / width)
        builder.add_rows(
            triangle + builder.picked(negative, upper / width), -np.inf, -lower * upper / width
        )
    else:
        phases = Phases(site.node, neurons, builder.add_binaries(len(neurons)))
        active = builder.picked(positive) - builder.picked(phases.columns, upper)
        builder.add_rows(active, -np.inf, 0.0)
        inactive = builder.picked(negative) - builder.picked(phases.columns, lower)
        builder.add_rows(inactive, -np.inf, -lower)
    site.units.append(SplitUnits(site.node, neurons, undecided, positive, negative, phases))
    factor = np.where(on, 1.0, np.where(off, slope, 0.0))
    value = scaled(z, factor, builder.columns)
    shape = (len(z), builder.columns)
    matrix = value.matrix + place(neurons, positive, 1.0, shape)
    if slope:
        matrix = matrix - place(neurons, negative, slope, shape)
    return Expression(csr_array(matrix), value.constant)
