"""What an attack hands back for one query."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

__all__ = ["AttackInterrupted", "AttackOutcome", "merge_outcomes"]


@dataclass(frozen=True, eq=False)
class AttackOutcome:
    """Candidates in ascending order of margin, all inside the query's region.

    Margins are claims of a float32 forward pass: only a replay on the ONNX file makes a witness.

    Attributes:
        method: which attack.
        points: float32 `[M, *input_shape]`, the best of every restart.
        margins: float64 `[M]`, the property's margin at each.
        evaluations: how many inputs were pushed through the network.
        finished: False where the deadline came first.
        history: every new least margin and when it was found, on `time.monotonic()`'s clock; empty
            where the attack does not tell.
        notes: what the user should hear: a solver that was missing or failed.
    """

    method: str
    points: Float[np.ndarray, "M ..."]
    margins: Float[np.ndarray, "M"]
    evaluations: int
    finished: bool
    history: tuple[tuple[float, float], ...] = ()
    notes: tuple[str, ...] = ()

    @classmethod
    def nothing(cls, method: str, input_shape: tuple[int, ...]) -> AttackOutcome:
        """No candidate, after no work."""
        points = np.zeros((0, *input_shape), dtype=np.float32)
        return cls(method=method, points=points, margins=np.zeros(0), evaluations=0, finished=True)

    def best_of(self, count: int) -> AttackOutcome:
        """The same outcome with the `count` best candidates only."""
        return replace(self, points=self.points[:count], margins=self.margins[:count])

    @property
    def margin(self) -> float:
        """The least margin found; infinity when there is no candidate."""
        return float(self.margins[0]) if len(self.margins) else math.inf

    @property
    def best(self) -> NDArray[np.float32] | None:
        """The candidate of least margin."""
        return np.asarray(self.points[0]) if len(self.margins) else None


class AttackInterrupted(KeyboardInterrupt):
    """Ctrl-C during an attack.

    Attributes:
        outcomes: what was found until then, one a query.
    """

    def __init__(self, outcomes: Sequence[AttackOutcome]) -> None:
        super().__init__()
        self.outcomes = tuple(outcomes)


def merge_outcomes(outcomes: Sequence[AttackOutcome], method: str) -> AttackOutcome:
    """The candidates of several outcomes of one query, as one.

    Raises:
        ValueError: there is no outcome.
    """
    if not outcomes:
        raise ValueError("no outcome to merge")
    margins = np.concatenate([o.margins for o in outcomes])
    order = np.argsort(margins, kind="stable")
    return AttackOutcome(
        method=method,
        points=np.concatenate([o.points for o in outcomes])[order],
        margins=margins[order],
        evaluations=sum(o.evaluations for o in outcomes),
        finished=all(o.finished for o in outcomes),
        notes=tuple(dict.fromkeys(text for o in outcomes for text in o.notes)),
    )
