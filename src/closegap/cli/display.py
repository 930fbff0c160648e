"""What people see on stderr while a run goes on, and the table at its end; rows for programs."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType

import click
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Table

from closegap.cli.rows import print_row
from closegap.core.verdict import Reason, Verdict
from closegap.evaluate import Event, RunStarted, Summary, Tally, TaskFinished
from closegap.store import DistanceRecord, Record

__all__ = [
    "Follower",
    "duration",
    "print_attack_summary",
    "print_distances",
    "print_nearest",
    "print_summary",
    "tell_distance",
]

#: Without a terminal, one line of progress is written at most this often, in seconds.
_PLAIN_SECONDS = 5.0
#: Columns of what goes to a file or a pipe.
_FILE_WIDTH = 120
#: So many rows that failed are told in a line each.
_FAILURES = 20


class Follower:
    """Shows a run's events: rows on stdout when asked for, progress on stderr.

    A terminal gets a bar that redraws itself; a file or pipe gets a plain line now and then.

    Args:
        rows: print one JSON row on stdout for every finished query.
    """

    def __init__(self, *, rows: bool) -> None:
        self._rows = rows
        self._console = Console(stderr=True)
        self._told = -_PLAIN_SECONDS
        self._bar: Progress | None = None
        if self._console.is_terminal:
            self._bar = Progress(
                SpinnerColumn(),
                BarColumn(bar_width=None),
                MofNCompleteColumn(),
                TextColumn("{task.description}"),
                console=self._console,
                transient=True,
                redirect_stdout=False,
            )
            self._line = self._bar.add_task("loading", total=None)

    def __enter__(self) -> Follower:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, event: Event) -> None:
        """Show one event."""
        records = event.records if isinstance(event, RunStarted) else (event.record,)
        if self._rows:
            for record in records:
                print_row(record.row())
        if isinstance(event, TaskFinished) and event.trace:
            self._trouble(event)
        self._progress(event.tally)

    def _progress(self, tally: Tally) -> None:
        text = _progress_line(tally)
        if self._bar is not None:
            self._bar.update(self._line, completed=tally.done, total=tally.total, description=text)
            return
        now = time.monotonic()
        if now - self._told >= _PLAIN_SECONDS or tally.done == tally.total:
            self._told = now
            self._console.print(f"{tally.done}/{tally.total}  {text}", highlight=False)

    def _trouble(self, event: TaskFinished) -> None:
        """An error nobody expected is worth a line at once, and its traceback to those who ask."""
        record = event.record
        text = event.trace if os.environ.get("CLOSEGAP_DEBUG") == "1" else record.detail
        self._console.print(f"{record.name or record.index}: {text}", markup=False, highlight=False)


def print_summary(summary: Summary, records: Iterable[Record], title: str) -> None:
    """The table at the end of a run, on stdout.

    Args:
        summary: of the run.
        records: of the run; what failed is told below the table.
        title: the line above the table.
    """
    tally = summary.tally
    unknown = [r for r in records if r.verdict is Verdict.UNKNOWN]
    reasons = Counter(str(r.reason) for r in unknown)
    table = Table(show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_column()
    table.add_row("verified", str(tally.verified), "")
    misclassified = f"{tally.misclassified} misclassified" if tally.misclassified else ""
    table.add_row("falsified", str(tally.falsified), misclassified)
    why = ", ".join(f"{name} {count}" for name, count in reasons.most_common())
    table.add_row("unknown", str(tally.unknown), why)
    table.add_row("bracket", _bracket(tally), f"of {tally.done} hold")
    resumed = f"{summary.resumed} were done before" if summary.resumed else ""
    table.add_row("time", duration(summary.seconds), resumed)
    _print_titled(title, table)
    _tell_failures([r for r in unknown if r.reason is Reason.ENGINE_FAILED])


def _tell_failures(records: Sequence[Record]) -> None:
    """What was wrong with which rows: a file that is missing, say."""
    for record in records[:_FAILURES]:
        click.echo(f"{record.name or record.index}: {record.detail}")
    if len(records) > _FAILURES:
        click.echo(f"and {len(records) - _FAILURES} more; --json gives every row")


def print_attack_summary(records: Sequence[Record], title: str) -> None:
    """The table after an attack, and what there is to say of images, on stdout."""
    broken = [r for r in records if r.verdict is Verdict.FALSIFIED]
    clean = sum(r.engine == "clean" for r in broken)
    table = Table(show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_row("images", str(len(records)))
    table.add_row("misclassified", str(clean))
    table.add_row("broken by the attack", str(len(broken) - clean))
    table.add_row("not broken", str(len(records) - len(broken)))
    table.add_row("time", duration(sum(r.seconds for r in records)))
    _print_titled(title, table)
    _tell_details([r.detail for r in records])


def _tell_details(details: Sequence[str]) -> None:
    """What there is to say of how many rows, in a line each."""
    said = Counter(text for text in details if text)
    for text, count in said.most_common():
        click.echo(f"{count} of {len(details)}: {text}")


def print_distances(rows: Sequence[dict[str, object]], title: str) -> None:
    """The table of least distances and what there is to say of its rows, on stdout."""
    names = ("index", "label", "distance", "found", "lower", "upper", "verdict", "8 bits")
    table = _narrow_table((*names, "seconds"))
    for row in rows:
        ends = (f"{row[name]:.6g}" if row[name] is not None else "-" for name in ("lower", "upper"))
        table.add_row(
            str(row["index"]),
            str(row["label"]),
            str(row["distance"]),
            "-" if row["target"] is None else str(row["target"]),
            *ends,
            str(row["verdict"]),
            str(row["rounding"] or "-"),
            f"{row['seconds']:.1f}",
        )
    _print_titled(title, table)
    _tell_rounding(rows)
    _tell_details([str(row["detail"]) for row in rows])


def _narrow_table(names: Sequence[str]) -> Table:
    """Of numbers and short words; nothing is broken or cut short while there is room."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _tell_rounding(rows: Sequence[Mapping[str, object]]) -> None:
    """How many have a counterexample, and how many of these are left as 8-bit pictures."""
    asked = [row for row in rows if row["verdict"] != "misclassified"]
    became = Counter(row["rounding"] for row in asked)
    lasting, wrong = became["kept"] + became["repaired"], len(rows) - len(asked)
    click.echo(
        f"{len(asked) - became[None]} of {len(asked)} have a counterexample; as an 8-bit picture "
        f"{lasting} of {len(asked)}, {became['repaired']} of them repaired"
        + (f"; {wrong} misclassified as they are, left out" if wrong else "")
    )


def print_nearest(rows: Sequence[dict[str, object]], title: str) -> None:
    """The table of an attack of least distance, on stdout."""
    names = ("index", "label", "verdict", "distance", "pixels", "target", "8 bits", "seconds")
    table = _narrow_table(names)
    for row in rows:
        table.add_row(
            str(row["index"]),
            str(row["label"]),
            str(row["verdict"]),
            "-" if row["distance"] is None else f"{row['distance']:.6g}",
            "-" if row["pixels"] is None else str(row["pixels"]),
            "-" if row["target"] is None else str(row["target"]),
            str(row["rounding"] or "-"),
            f"{row['seconds']:.2f}",
        )
    _print_titled(title, table)
    _tell_rounding(rows)


def tell_distance(record: DistanceRecord, done: int, total: int) -> None:
    """A line on stderr for one finished distance query."""
    bracket = f"{record.lower:.5g} .. {record.upper:.5g}  {record.state}"
    if record.none_exists:
        bracket = "no counterexample exists"
    elif record.state == "closed":
        bracket += f" within {record.tolerance:.2g}"
    Console(stderr=True, highlight=False).print(
        f"{done}/{total}  image {record.index}  {record.distance}  {bracket}  "
        f"{duration(record.seconds)}",
        markup=False,
    )


def _print_titled(title: str, table: Table) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, _FILE_WIDTH)
    console.print(title, markup=False)
    console.print(table)


def duration(seconds: float) -> str:
    """A time as people read it: `0.42 s`, `12 s`, `3 min 05 s`, `2 h 07 min`."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def _bracket(tally: Tally) -> str:
    return f"{tally.verified_percent:.1f} .. {tally.upper_percent:.1f} %"


def _progress_line(tally: Tally) -> str:
    eta = "" if tally.eta is None or tally.done == tally.total else f"  {duration(tally.eta)} to go"
    counts = f"{tally.verified} verified, {tally.falsified} falsified, {tally.unknown} unknown"
    return f"{_bracket(tally)}  {counts}{eta}"
