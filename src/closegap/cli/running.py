"""What `evaluate` and `verify` share: a store, guarded workers, progress, a report."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from closegap.cli.display import Follower, print_summary
from closegap.cli.options import require_writable
from closegap.evaluate import EvaluationPlan, Executor, Summary, evaluate
from closegap.store import RunStore

__all__ = ["Outputs", "run_plan"]


@dataclass(frozen=True)
class Outputs:
    """Where a run's answers go.

    Attributes:
        store: the run store, or `None` for one that is thrown away.
        report: the HTML file, or `None`.
        as_json: rows on stdout instead of a table.
    """

    store: Path | None
    report: Path | None
    as_json: bool

    def __post_init__(self) -> None:
        require_writable(self.report, "--report")


def run_plan(plan: EvaluationPlan, executor: Executor, outputs: Outputs, title: str) -> None:
    """Answer the plan's queries and tell the user.

    Raises:
        KeyboardInterrupt: with a note that says what is kept.
        InputError: the store or the report cannot be written, or something given cannot be used.
    """
    with _store_path(outputs.store) as path:
        with RunStore.create_or_resume(path, plan.header) as store:
            summary = _followed(plan, executor, store, outputs)
            if not outputs.as_json:
                print_summary(summary, store.records(pictures=False), title)
        if outputs.report is not None:
            from closegap.report import write  # heavy: matplotlib

            write(path, outputs.report)


def _followed(
    plan: EvaluationPlan, executor: Executor, store: RunStore, outputs: Outputs
) -> Summary:
    """Evaluate with progress; an interruption says what is kept."""
    with Follower(rows=outputs.as_json) as follower:
        try:
            return evaluate(plan, executor, store, follower)
        except KeyboardInterrupt as error:
            error.add_note(_kept(store, outputs.store))
            raise


@contextmanager
def _store_path(path: Path | None) -> Iterator[Path]:
    """The user's store, or one in a folder that goes away."""
    if path is not None:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="closegap-") as folder:
        yield Path(folder) / "run.db"


def _kept(store: RunStore, path: Path | None) -> str:
    """What an interrupted run leaves; counted in the store, which is ahead of what was shown."""
    done, total = len(store), store.header().total
    if path is None:
        return f"{done} of {total} were done and not kept; --store keeps them"
    return f"{done} of {total} are in {path}; the same command continues"
