"""Columns of the input, and the rows of its region."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from closegap.core.numerics import float32_outward
from closegap.encode.builder import ModelBuilder
from closegap.encode.units import BallUnits, Units
from closegap.specs.region import Ball, Region, bounding_box

__all__ = ["add_inputs"]


def add_inputs(
    region: Region, builder: ModelBuilder, units: list[Units], inexact: set[str]
) -> NDArray[np.int64]:
    """Add one column for each input entry, first of all columns.

    A box is exact (with the float32 point that stands for a fixed input no float32 number
    represents). An l1 ball adds distance columns `t >= |x - center|` with `sum t <= radius`. An
    l2 ball is enclosed by its bounding box and the l1 ball of radius `sqrt(D) radius`, which is
    noted in `inexact`.

    Returns:
        the columns `[D]`.
    """
    box = bounding_box(region)
    lower, upper = float32_outward(box.lower.reshape(-1), box.upper.reshape(-1))
    inputs = builder.add_columns(lower, upper)
    if not isinstance(region, Ball):
        return inputs
    radius = region.radius
    if region.norm == 2:
        radius *= math.nextafter(math.sqrt(len(inputs)), math.inf)
        inexact.add("the l2 ball is enclosed by a box and an l1 ball")
    center = region.center.reshape(-1)
    reach = np.maximum(upper - center, center - lower)
    distances = builder.add_columns(np.zeros(len(inputs)), reach)
    x, t = builder.picked(inputs), builder.picked(distances)
    builder.add_rows(x - t, -np.inf, center)
    builder.add_rows(x + t, center, np.inf)
    total = csr_array(t.sum(axis=0)[None, :])
    builder.add_rows(total, -np.inf, math.nextafter(radius, math.inf))
    units.append(BallUnits(center, inputs, distances))
    return inputs
