"""Candidates of an attack between cells: moved into the region, evaluated, kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray

from closegap.attacks.outcome import AttackInterrupted, AttackOutcome
from closegap.attacks.projection import to_float32_inside
from closegap.core.budget import Budget
from closegap.core.numerics import REPLAY_SLACK
from closegap.runtime.cache import compiled, replayer
from closegap.specs.query import Query

__all__ = ["Harvest", "OnCandidate", "harvested"]

#: Told of a float32 member of the region that seems to break the property; True ends the attack.
OnCandidate: TypeAlias = Callable[[NDArray[np.float32]], bool]

#: Candidates that are handed back.
KEPT = 64


class Harvest:
    """What an attack found for one query.

    Without a judge a candidate ends the attack once it breaks the property by more than two
    float32 evaluations may differ, or onnxruntime and float64 confirm it.

    `best` is the point of least margin, `done` whether the attack may end.

    Args:
        query: what is attacked.
        judge: asked about every candidate that breaks the property in float32.
    """

    def __init__(self, query: Query, judge: OnCandidate | None = None) -> None:
        self.query = query
        self.done = False
        self.best: NDArray[np.float32] | None = None
        self.evaluations = 0
        self._judge = judge
        self._network = compiled(query.network, torch.float32)
        self._points: list[NDArray[np.float32]] = []
        self._margins: list[float] = []
        self._history: list[tuple[float, float]] = []
        self._notes: dict[str, None] = {}

    @property
    def margin(self) -> float:
        """The least margin kept; infinity while there is none."""
        return self._history[-1][1] if self._history else np.inf

    def take(self, point: Float[np.ndarray, "D"]) -> float:
        """Move a flat point into the region and keep it.

        Returns:
            the property's margin there; infinity where the point could not be moved in.
        """
        inside = to_float32_inside(self.query.region, point.reshape(self.query.network.input_shape))
        if inside is None:
            return np.inf
        with torch.no_grad():
            outputs = self._network(self._network.tensor(inside[None])).numpy()
        self.evaluations += 1
        margin = float(self.query.prop.margins(outputs)[0])
        if np.isfinite(margin):
            self._points.append(inside)
            self._margins.append(margin)
            if not self._history or margin < self._history[-1][1]:
                self._history.append((time.monotonic(), margin))
                self.best = inside
            self._ask(inside, margin, REPLAY_SLACK * (1 + float(np.abs(outputs).max())))
        return margin

    def add(self, outcome: AttackOutcome) -> None:
        """Keep what another attack found, best first, until it ends the search.

        Raises:
            AttackInterrupted: Ctrl-C, with what is being added.
        """
        self.evaluations += outcome.evaluations
        for text in outcome.notes:
            self.note(text)
        try:
            for point in outcome.points[:KEPT]:
                if not self.done:
                    self.take(point.reshape(-1).astype(np.float64))
        except KeyboardInterrupt as stop:
            raise AttackInterrupted([outcome]) from stop

    def note(self, text: str) -> None:
        """Say something to the user, once."""
        if text:
            self._notes[text] = None

    def _ask(self, point: NDArray[np.float32], margin: float, slack: float) -> None:
        if self._judge is None:
            self.done = self.done or margin < -slack or self._confirmed(point, margin)
        elif self.query.prop.broken_by(margin):
            self.done = self.done or self._judge(point)

    def _confirmed(self, point: NDArray[np.float32], margin: float) -> bool:
        """Whether a break that is within rounding is one in every evaluation."""
        if not self.query.prop.broken_by(margin):
            return False
        witness = replayer(self.query.network).witness(self.query, point)
        return witness is not None and witness.breaks

    @contextmanager
    def kept(self, method: str) -> Iterator[None]:
        """Ctrl-C within it carries what was found, by an attack that it cut off too.

        Raises:
            AttackInterrupted: in place of the `KeyboardInterrupt`.
        """
        try:
            yield
        except KeyboardInterrupt as stop:
            for outcome in stop.outcomes if isinstance(stop, AttackInterrupted) else ():
                self.add(outcome)
            raise AttackInterrupted([self.outcome(method, finished=False)]) from stop

    def ended(self, method: str, budget: Budget) -> AttackOutcome:
        """The outcome of an attack that was done, or was stopped by nothing but its budget."""
        return self.outcome(method, finished=self.done or not budget.expired)

    def outcome(self, method: str, *, finished: bool) -> AttackOutcome:
        """The best candidates, in ascending order of margin."""
        shape = (0, *self.query.network.input_shape)
        points = np.stack(self._points) if self._points else np.zeros(shape, np.float32)
        margins = np.array(self._margins, dtype=np.float64)
        order = np.argsort(margins, kind="stable")[:KEPT]
        return AttackOutcome(
            method=method,
            points=points[order],
            margins=margins[order],
            evaluations=self.evaluations,
            finished=finished,
            history=tuple(self._history),
            notes=tuple(self._notes),
        )


def harvested(
    query: Query,
    method: str,
    budget: Budget,
    search: Callable[[Harvest], None],
    judge: OnCandidate | None = None,
) -> AttackOutcome:
    """What a search finds for one query.

    Args:
        query: what to break.
        method: for the outcome.
        budget: of the search; it is not begun where there is no time or no clause.
        search: adds to the harvest until that is done or the time is up.
        judge: see `Harvest`.

    Raises:
        AttackInterrupted: Ctrl-C, with what was found until then.
    """
    harvest = Harvest(query, judge)
    if query.prop.clauses and not budget.expired:
        with harvest.kept(method):
            search(harvest)
    return harvest.ended(method, budget)
