"""The running bracket of a run, and the events by which it is followed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeAlias

from closegap.core.verdict import Reason, Verdict
from closegap.store.records import Record

__all__ = ["Event", "RunStarted", "Tally", "TaskFinished"]


@dataclass(frozen=True)
class Tally:
    """How far a run is.

    The true share of queries that hold, over those finished, lies between `verified_percent` and
    `upper_percent`.

    Attributes:
        total: queries the run has.
        verified: proved.
        falsified: broken by a replayed witness, misclassified images among them.
        unknown: neither.
        misclassified: falsified by the clean check.
        failed: unknown because something broke or could not be used.
        session_done: finished since this process began (the others are from before).
        session_seconds: wall-clock since this process began.
    """

    total: int
    verified: int = 0
    falsified: int = 0
    unknown: int = 0
    misclassified: int = 0
    failed: int = 0
    session_done: int = 0
    session_seconds: float = 0.0

    @property
    def done(self) -> int:
        """Queries finished, those of earlier sessions too."""
        return self.verified + self.falsified + self.unknown

    @property
    def verified_percent(self) -> float:
        """Lower end of the running bracket; 0 before anything is done."""
        return 100.0 * self.verified / self.done if self.done else 0.0

    @property
    def upper_percent(self) -> float:
        """Upper end of the running bracket: 100 - falsified %; 100 before anything is done."""
        return 100.0 - (100.0 * self.falsified / self.done if self.done else 0.0)

    @property
    def eta(self) -> float | None:
        """Seconds to go at this session's rate; `None` before it finished anything."""
        if not self.session_done:
            return None
        return (self.total - self.done) * self.session_seconds / self.session_done

    def counted(self, record: Record) -> Tally:
        """The tally with one more record."""
        verdict = record.verdict
        broken = verdict is Verdict.UNKNOWN and record.reason is Reason.ENGINE_FAILED
        clean = verdict is Verdict.FALSIFIED and record.engine == "clean"
        return replace(
            self,
            verified=self.verified + (verdict is Verdict.VERIFIED),
            falsified=self.falsified + (verdict is Verdict.FALSIFIED),
            unknown=self.unknown + (verdict is Verdict.UNKNOWN),
            misclassified=self.misclassified + clean,
            failed=self.failed + broken,
        )

    def after(self, record: Record, seconds: float) -> Tally:
        """The tally with one more record of this session, `seconds` after it began."""
        counted = self.counted(record)
        return replace(counted, session_done=self.session_done + 1, session_seconds=seconds)


@dataclass(frozen=True, eq=False)
class RunStarted:
    """A run began or continues.

    Attributes:
        tally: counts what the store already holds of it.
        records: what it holds, by index, without pictures.
    """

    tally: Tally
    records: tuple[Record, ...] = ()


@dataclass(frozen=True, eq=False)
class TaskFinished:
    """A record was just put into the store.

    Attributes:
        record: of the query.
        tally: with it counted.
        trace: the traceback where the query failed by an error nobody expected.
    """

    record: Record
    tally: Tally
    trace: str = ""


Event: TypeAlias = RunStarted | TaskFinished
