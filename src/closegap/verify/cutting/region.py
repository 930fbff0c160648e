"""The programs of all clauses of one query."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float

from closegap.bounds.regions import InputSet
from closegap.core.budget import Budget
from closegap.encode import Bounds
from closegap.encode.reduced import ReducedNetwork, reduce_network
from closegap.graph import ops
from closegap.specs.query import Query
from closegap.verify.cutting.program import CutProgram, Rows, cut_program, unit_rows

__all__ = ["RegionPrograms", "region_programs"]


@dataclass(frozen=True, eq=False)
class RegionPrograms:
    """What the clauses of a query share.

    Attributes:
        query: whose clauses.
        reduced: its network on the region.
        lower: of the region's bounding box, `[D]`; a ball inside it is given no rows.
        upper: likewise.
    """

    query: Query
    reduced: ReducedNetwork
    lower: Float[np.ndarray, "D"]
    upper: Float[np.ndarray, "D"]

    def program(self, clause: int) -> CutProgram | None:
        """One clause; `None` where it has several rows."""
        prop = self.query.prop
        rows = np.flatnonzero(prop.clause == clause)
        if len(rows) != 1:
            return None
        row, offset = prop.rows[rows[0]], float(prop.offsets[rows[0]])
        return cut_program(self.reduced, self.lower, self.upper, row, offset, self._units)

    @cached_property
    def _units(self) -> Rows | None:
        """What the programs of all clauses share; `None` where bounds are not finite."""
        if not all(
            np.isfinite(side).all() for ends in self.reduced.bounds.values() for side in ends
        ):
            return None
        return unit_rows(self.reduced, self.lower, self.upper)


def region_programs(
    query: Query, region: InputSet, bounds: Bounds, budget: Budget
) -> RegionPrograms | None:
    """Prepare a query.

    Args:
        query: what to decide.
        region: its inputs, float64, a batch of one.
        bounds: sound over the region for every pre-activation.
        budget: composing is given up when it ends.

    Returns:
        `None` where the network has other activations than ReLUs, where its reduced form would not
        fit in memory, where it splits nothing, or where the budget ended.
    """
    network = query.network
    if not all(isinstance(network.nodes[i].op, ops.Relu) for i in network.activations):
        return None
    lower, upper = (np.asarray(side.reshape(-1).numpy()) for side in (region.lower, region.upper))
    reach = np.maximum(np.abs(lower), np.abs(upper))
    reduced = reduce_network(network, bounds, reach, worth=None, budget=budget)
    if reduced is None or not reduced.origin:
        return None
    return RegionPrograms(query, reduced, lower, upper)
