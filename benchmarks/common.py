"""What the benchmarks share: the data, running a plan, tables, naming the machine."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from statistics import median

import click
from rich.console import Console
from rich.table import Table

from closegap.core.verdict import Verdict
from closegap.evaluate import EvaluationPlan, ProcessExecutor, TaskFinished, evaluate
from closegap.evaluate.progress import Event
from closegap.store import Record, RunStore

__all__ = ["data_root", "describe_machine", "print_table", "run_records", "summarise"]

_ROOT = Path(__file__).resolve().parent.parent


def data_root() -> Path:
    """The folder of real networks and images: `CLOSEGAP_DATA`, or `../shared/data`.

    Raises:
        click.UsageError: there is no such folder.
    """
    folder = Path(os.environ.get("CLOSEGAP_DATA", _ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        raise click.UsageError(f"no data at {folder}; set CLOSEGAP_DATA to the data folder")
    return folder


def run_records(plan: EvaluationPlan, workers: int, store: Path | None = None) -> list[Record]:
    """Answer a plan with `workers` processes, as the commands do; records in the plan's order.

    Args:
        plan: what is asked.
        workers: processes.
        store: a run store to continue; one that is thrown away if `None`.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = store or Path(folder) / "run.db"
        path.parent.mkdir(parents=True, exist_ok=True)
        with RunStore.create_or_resume(path, plan.header) as run:
            evaluate(plan, ProcessExecutor(workers), run, _follow)
            return sorted(run.records(), key=lambda record: record.index)


def _follow(event: Event) -> None:
    """A line on stderr for every query."""
    if isinstance(event, TaskFinished):
        record, tally = event.record, event.tally
        click.echo(
            f"{tally.done}/{tally.total}  {record.name or record.index}  {record.verdict}  "
            f"{record.engine}  {record.seconds:.2f} s  {record.detail}",
            err=True,
        )


def summarise(records: Iterable[Record]) -> tuple[str, ...]:
    """Cells of a table: images, verified, falsified, unknown, by engine, median and total time."""
    kept = list(records)
    verdicts = Counter(record.verdict for record in kept)
    decided = [record for record in kept if record.verdict is not Verdict.UNKNOWN]
    engines = Counter(record.engine for record in decided)
    return (
        str(len(kept)),
        str(len(decided)),
        *(str(verdicts[verdict]) for verdict in Verdict),
        ", ".join(f"{engine} {count}" for engine, count in engines.most_common()),
        f"{median(record.seconds for record in kept):.2f}",
        f"{sum(record.seconds for record in kept):.0f}",
    )


def print_table(title: str, columns: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    """A table on stdout, numbers to the right."""
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right")
    for row in rows:
        table.add_row(*row)
    Console(width=160, highlight=False).print(table)


def describe_machine(plan: EvaluationPlan) -> str:
    """The machine and the versions that a figure was measured with, on one line."""
    parts = {**plan.header.machine, **plan.header.versions}
    return ", ".join(f"{name} {value}" for name, value in parts.items())
