"""What the engines of one query share: bracket, pool, activation bounds, clock."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from closegap.attacks.pool import CandidatePool
from closegap.attacks.projection import to_float32_inside
from closegap.bounds.intermediate import NetworkBounds
from closegap.core.bracket import Bracket
from closegap.core.verdict import Reason, Verdict
from closegap.runtime.cache import compiled, replayer
from closegap.specs.query import Query
from closegap.store.records import BracketEvent
from closegap.strategy.shelf import Shelf
from closegap.verify.incomplete import LinearVerifier

__all__ = ["Session"]

#: Of a batch of candidates so many of the best are replayed on the ONNX file.
_REPLAYED = 4
#: What is proved where nothing is known but the sign.
_POSITIVE = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True, eq=False)
class _Proofs:
    """Proved lower bounds of rows `[Q]` and clauses `[K]`."""

    rows: NDArray[np.float64]
    clauses: NDArray[np.float64]


@dataclass(eq=False)
class Session:
    """One query while engines work on it. Every method may be called from any thread.

    The bracket is the only judge: engines offer points and prove bounds, the session replays the
    points, keeps the best of both sides, and says whether there is anything left to do.

    Attributes:
        query: what to decide.
        shelf: the query's snapshot, for engines that search long.
        linear: the query's bounds in both precisions.
        pool: candidates of all engines.
        notes: what the user should hear (a solver that was missing, a layer cut short).
        counts: nodes, leaves and the like, summed over engines.
        engine_seconds: by engine, in the order they ran.
        limit: what stopped an engine before the run's time was up (the node limit, or its share).
        part_seconds: within engines, as `engine.part`.
        held: by engine, the search that its next turn goes on with; `tree` and `rows`
            are what engines share.
        outlook: by engine, seconds until its tree would close; `None` where nobody can tell yet.
        marks: by engine, a few numbers that its next turn asks for, kept in snapshots.
        turn: number of the turn that is being taken, and `seconds` when it began.
    """

    query: Query
    shelf: Shelf = field(default_factory=Shelf)
    linear: LinearVerifier = field(init=False)
    pool: CandidatePool = field(init=False)
    notes: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    engine_seconds: dict[str, float] = field(default_factory=dict)
    limit: Reason | None = None
    part_seconds: dict[str, float] = field(default_factory=dict)
    held: dict[str, object] = field(default_factory=dict)
    outlook: dict[str, float | None] = field(default_factory=dict)
    marks: dict[str, tuple[float, ...]] = field(default_factory=dict)
    turn: tuple[int, float] = (0, 0.0)

    def __post_init__(self) -> None:
        network = compiled(self.query.network, torch.float32)
        self.linear = LinearVerifier(self.query)
        self.pool = CandidatePool.for_network(network)
        self._started = time.monotonic()
        self._lock = threading.RLock()
        self._bracket = Bracket()
        self._history: list[BracketEvent] = []
        self._bounds: NetworkBounds | None = None
        prop = self.query.prop
        self._proofs = _Proofs(np.full(len(prop.rows), -np.inf), np.full(prop.clauses, -np.inf))

    # -- reading ------------------------------------------------------------------------------

    @property
    def seconds(self) -> float:
        """Since the query began."""
        return time.monotonic() - self._started

    @property
    def bracket(self) -> Bracket:
        """The bracket now."""
        with self._lock:
            return self._bracket

    @property
    def history(self) -> tuple[BracketEvent, ...]:
        """Every improvement of the bracket so far."""
        with self._lock:
            return tuple(self._history)

    @property
    def decided(self) -> bool:
        """True iff nothing is left to do."""
        return self.bracket.verdict is not Verdict.UNKNOWN

    @property
    def clause_lower(self) -> NDArray[np.float64]:
        """Proved lower bound of each clause's margin, `[K]`."""
        with self._lock:
            return self._proofs.clauses.copy()

    @property
    def open_clauses(self) -> NDArray[np.int64]:
        """Clauses not proved yet, the ones closest to a proof first."""
        lower = self.clause_lower
        order = np.argsort(-lower, kind="stable")
        return order[~(lower[order] > 0)]

    @property
    def open_rows(self) -> NDArray[np.int64]:
        """Rows of the clauses not proved yet."""
        return np.flatnonzero(np.isin(self.query.prop.clause, self.open_clauses))

    @property
    def bounds(self) -> NetworkBounds | None:
        """The tightest activation bounds so far."""
        with self._lock:
            return self._bounds

    # -- learning -----------------------------------------------------------------------------

    def learn_bounds(self, bounds: NetworkBounds) -> None:
        """Keep tighter activation bounds (they must contain what was known)."""
        with self._lock:
            self._bounds = bounds

    def prove_rows(self, which: NDArray[np.int64], lower: NDArray[np.float64], engine: str) -> None:
        """Raise the proved bounds of rows, and of the clauses they belong to."""
        with self._lock:
            rows = self._proofs.rows.copy()
            rows[which] = np.fmax(rows[which], lower)
            clauses = self.query.prop.clause_values(rows[None])[0]
            self._proofs = _Proofs(rows, np.fmax(self._proofs.clauses, clauses))
            self._raise(engine)

    def prove_clause(self, clause: int, lower: float, engine: str) -> None:
        """Raise the proved bound of one clause."""
        with self._lock:
            clauses = self._proofs.clauses.copy()
            clauses[clause] = np.fmax(clauses[clause], lower)
            self._proofs = _Proofs(self._proofs.rows, clauses)
            self._raise(engine)

    def prove_tree(self, clause: int, lower: float, engine: str) -> None:
        """Raise the proved bound of one clause to that of a tree.

        One that closed says "positive" without saying how much.
        """
        self.prove_clause(clause, float(min(lower, _POSITIVE)), engine)

    def _raise(self, engine: str) -> None:
        least = float(self._proofs.clauses.min()) if len(self._proofs.clauses) else np.inf
        self._update(self._bracket.raise_lower(least, engine), engine)

    def offer(self, points: NDArray[np.floating], engine: str) -> bool:
        """Judge candidates: moved into the region, evaluated, the best replayed and pooled.

        Args:
            points: `[M, *input shape]`, anywhere.
            engine: who found them.

        Returns:
            True iff the property is now known to be broken.
        """
        inside = [to_float32_inside(self.query.region, point) for point in points]
        kept = [point for point in inside if point is not None]
        if kept:
            batch = np.stack(kept)
            network = compiled(self.query.network, torch.float32)
            with torch.no_grad():
                outputs = network(torch.from_numpy(batch)).numpy()
            margins = self.query.prop.margins(outputs)
            self.pool.add(batch, margins, engine=engine)
            order = np.argsort(margins, kind="stable")[:_REPLAYED]
            for place in order:
                if margins[place] < self.bracket.upper or self._may_break(margins[place]):
                    self.replay(batch[place], engine)
                if self.decided:
                    break
        return self.bracket.verdict is Verdict.FALSIFIED

    def _may_break(self, margin: float) -> bool:
        return bool(margin <= 0) and not self.decided

    def replay(self, point: NDArray[np.float32], engine: str) -> None:
        """Let the ONNX file judge a point; the bracket's upper end is the least it attained."""
        witness = replayer(self.query.network).witness(self.query, point)
        if witness is not None:
            with self._lock:
                self._update(self._bracket.reduce_upper(witness, engine), engine)

    def _update(self, bracket: Bracket, engine: str) -> None:
        if bracket is self._bracket:
            return
        self._bracket = bracket
        self._history.append(BracketEvent(self.seconds, engine, bracket.lower, bracket.upper))

    def remember(
        self,
        rows: NDArray[np.float64],
        clauses: NDArray[np.float64],
        engine: str,
        history: Sequence[BracketEvent],
        seconds: float,
    ) -> None:
        """What an earlier run of the same query proved, and the time it took.

        Raises:
            ValueError: it is about another property.
        """
        with self._lock:
            if rows.shape != self._proofs.rows.shape or clauses.shape != self._proofs.clauses.shape:
                raise ValueError("what was proved is about another property")
            self._started = time.monotonic() - seconds
            self._proofs = _Proofs(rows.astype(np.float64), clauses.astype(np.float64))
            self._raise(engine)
            self._history = list(history)

    @property
    def proofs(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Proved lower bounds of rows `[Q]` and clauses `[K]`."""
        with self._lock:
            return self._proofs.rows.copy(), self._proofs.clauses.copy()

    def time_parts(self, engine: str, seconds: Mapping[str, float]) -> None:
        """Add the seconds of an engine's parts."""
        with self._lock:
            for part, spent in seconds.items():
                name = f"{engine}.{part}"
                self.part_seconds[name] = self.part_seconds.get(name, 0.0) + spent

    def count(self, **numbers: int) -> None:
        """Add to the counts."""
        with self._lock:
            for name, number in numbers.items():
                self.counts[name] = self.counts.get(name, 0) + number

    def spend(self, engine: str, seconds: float) -> None:
        """Add to an engine's time."""
        with self._lock:
            self.engine_seconds[engine] = self.engine_seconds.get(engine, 0.0) + seconds

    def absorb(self, other: Session) -> None:
        """Add what another session about the same network counted, timed and said."""
        depth = other.counts.get("depth")
        self.count(**{name: n for name, n in other.counts.items() if name != "depth"})
        if depth is not None:
            self.deepest(depth)
        for engine, seconds in other.engine_seconds.items():
            self.spend(engine, seconds)
        for name, seconds in other.part_seconds.items():
            engine, _, part = name.partition(".")
            self.time_parts(engine, {part: seconds})
        for text in other.notes:
            self.note(text)

    def deepest(self, depth: int) -> None:
        """Raise the count of the deepest level of any tree."""
        with self._lock:
            self.counts["depth"] = max(self.counts.get("depth", 0), depth)

    def note(self, text: str) -> None:
        """Say something to the user, once."""
        with self._lock:
            if text and text not in self.notes:
                self.notes.append(text)
