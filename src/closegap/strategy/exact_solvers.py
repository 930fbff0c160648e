"""Exact solvers of least distances, by name: what they are asked, and what they answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from closegap.attacks.activation.nearest import OnNearer
from closegap.attacks.sparse.generic import GenericMip
from closegap.attacks.sparse.incumbent import OnProved, unheard
from closegap.attacks.sparse.options import OURS, PAPER, Curved
from closegap.attacks.sparse.tree import SparseTree
from closegap.core.budget import Budget
from closegap.core.tolerance import Tolerance
from closegap.specs.distance import DistanceQuery

__all__ = ["EXACT", "IN_TURN", "ExactAnswer", "ExactSolver"]


@runtime_checkable
class ExactAnswer(Protocol):
    """What an exact solver found."""

    @property
    def lower(self) -> float:
        """No counterexample is nearer, rounding included; infinity where there is none at all."""

    @property
    def upper(self) -> float:
        """Attained by the witness; infinity without one."""

    @property
    def witness(self) -> NDArray[np.float32] | None:
        """What the judge accepted, in the network's input shape."""

    @property
    def nodes(self) -> int:
        """Nodes of all trees."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What could not be done, and why; for people."""


@runtime_checkable
class ExactSolver(Protocol):
    """Brackets any distance; given the time, closes the bracket."""

    def run(
        self,
        query: DistanceQuery,
        budget: Budget,
        judge: OnNearer,
        starts: Sequence[NDArray[np.float32]] = (),
        prove: OnProved = unheard,
    ) -> ExactAnswer:
        """Search under the nearest of `starts` until the budget ends; tell of every lower end."""


#: Exact solvers by name, made from a proved lower end and how near the ends are to come; each goes
#: on where the one before it ended.
#: The tree needs no attack of its own: it is started at a counterexample, where one was found.
EXACT: dict[str, Callable[[float, Tolerance], ExactSolver]] = {
    "tree": lambda known, near: SparseTree(replace(OURS, attack=None, known=known, tolerance=near)),
    "paper": lambda known, near: SparseTree(replace(PAPER, tolerance=near)),
    "paper-clarabel": lambda known, near: SparseTree(
        replace(PAPER, curved=Curved.CLARABEL, tolerance=near)
    ),
    "mip": lambda known, near: GenericMip(tolerance=near),
    "highs": lambda known, near: GenericMip("highs", tolerance=near),
    "scip": lambda known, near: GenericMip("scip", tolerance=near),
    "gurobi": lambda known, near: GenericMip("gurobi", tolerance=near),
}
#: Those that are asked one after the other where none is named.
IN_TURN = ("tree", "mip")
