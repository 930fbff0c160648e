"""Programs over one activation cell: least margin within a distance, least distance to a margin.

One distance a file, one line here.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from closegap.attacks.activation.programs.base import (
    CellAnswer,
    CellProgram,
    DistanceProgram,
    Goal,
    Ground,
    Optimum,
)
from closegap.attacks.activation.programs.l1 import L1Program
from closegap.attacks.activation.programs.l2 import L2Program
from closegap.attacks.activation.programs.linf import LinfProgram
from closegap.attacks.activation.programs.written import WrittenProgram
from closegap.specs.objectives import Objective

__all__ = [
    "PROGRAMS",
    "CellAnswer",
    "CellProgram",
    "DistanceProgram",
    "Goal",
    "Ground",
    "Optimum",
    "distance_program",
]

#: By norm.
PROGRAMS: dict[float, Callable[[Ground], CellProgram]] = {
    1.0: L1Program,
    2.0: L2Program,
    math.inf: LinfProgram,
}


def distance_program(objective: Objective, ground: Ground) -> DistanceProgram:
    """For any distance whose values are no whole numbers."""
    if objective.norm is None:
        return WrittenProgram(objective, ground)
    return PROGRAMS[objective.norm](ground)
