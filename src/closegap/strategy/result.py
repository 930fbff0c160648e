"""The answer to one query."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from closegap.core.bracket import Bracket, Witness
from closegap.core.verdict import Reason, Verdict
from closegap.store.records import BracketEvent

__all__ = ["Result"]


@dataclass(frozen=True, eq=False)
class Result:
    """What is known of a query, and how it became known.

    Attributes:
        bracket: of the least margin over the region.
        reason: why the verdict is unknown, else `None`.
        detail: the reason in words, what to try, and notes (a solver that was missing or failed).
        clause_lower: proved lower bound of each clause's margin, float64 `[K]`.
        target: name of the clause that was broken, or the one with the least lower bound.
        engine: that decided, or that improved the bracket last.
        seconds: wall-clock.
        engine_seconds: by engine, in the order they ran.
        history: every improvement of the bracket.
        counts: nodes, leaves, depth and the like, by name.
        part_seconds: within engines, as `engine.part`.
    """

    bracket: Bracket
    reason: Reason | None
    detail: str
    clause_lower: NDArray[np.float64]
    target: str
    engine: str
    seconds: float
    engine_seconds: dict[str, float] = field(default_factory=dict)
    history: tuple[BracketEvent, ...] = ()
    counts: dict[str, int] = field(default_factory=dict)
    part_seconds: dict[str, float] = field(default_factory=dict)

    @property
    def verdict(self) -> Verdict:
        """Derived from the bracket."""
        return self.bracket.verdict

    @property
    def witness(self) -> Witness | None:
        """The replayed input that attains the upper end, if there is one."""
        return self.bracket.witness

    @property
    def certificate(self) -> None:
        """The proof that a separate checker replays; not written yet."""
        return None
