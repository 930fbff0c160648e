"""The VNN-COMP properties of the data pack, through the ordinary instance list, family by family.

    python benchmarks/vnncomp.py [--timeout 10] [--families acasxu,oval21] [--workers 2] [--short]

A verdict is wrong when it contradicts the published consensus (every `sat` of the pack has a
checked witness). Every `sat` of ours is checked once more by `recheck.py`, which shares no code
with closegap; one that does not hold there is wrong too.
"""

from __future__ import annotations

import csv
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import click

from closegap.core.verdict import Reason, Verdict
from closegap.evaluate import InstanceList, WorkOptions, plan_instances
from closegap.specs.vnnlib import Instance, load_instances
from closegap.store import Record
from closegap.strategy.solve import DEFAULT_ENGINES
from common import data_root, describe_machine, print_table, run_records
from recheck import holds

__all__ = ["Family", "FamilyResult", "judge", "main"]

_COLUMNS = (
    "family", "instances", "sat", "unsat", "decided", "wrong", "unknown", "error", "median s",
    "boxes a second",
)  # fmt: skip
_WORDS = {Verdict.FALSIFIED: "sat", Verdict.VERIFIED: "unsat", Verdict.UNKNOWN: "unknown"}
_SHORT_FAMILY = 3
_LIST = "instances.csv"


@dataclass(frozen=True)
class Family:
    """A list of properties, and what was published of each: `sat`, `unsat` or `unknown`."""

    instances: tuple[Instance, ...]
    published: tuple[str, ...]


@dataclass(frozen=True)
class FamilyResult:
    """Counts of one family, its seconds, a line for everything that is wrong, boxes bounded."""

    counts: Counter[str]
    seconds: tuple[float, ...]
    complaints: tuple[str, ...]
    boxes: int = 0
    box_seconds: float = 0.0

    def row(self, name: str) -> tuple[str, ...]:
        """Cells of the table."""
        c = self.counts
        decided = c["sat"] + c["unsat"]
        numbers = (decided + c["unknown"], c["sat"], c["unsat"], decided, c["wrong"],
                   c["unknown"] - c["error"], c["error"])  # fmt: skip
        middle = f"{median(self.seconds):.2f}" if self.seconds else "-"
        speed = f"{self.boxes / self.box_seconds:.0f}" if self.boxes else "-"
        return (name, *map(str, numbers), middle, speed)


def judge(records: Sequence[Record], family: Family) -> FamilyResult:
    """Hold the records, in the list's order, against published verdicts and second opinion."""
    counts: Counter[str] = Counter()
    complaints = []
    for record in records:
        instance, word = family.instances[record.index], _WORDS[record.verdict]
        counts[word] += 1
        if record.reason in (Reason.ENGINE_FAILED, Reason.MEMORY):
            counts["error"] += 1
            complaints.append(f"{record.name}: {record.detail}")
        trouble = _trouble(record, instance, word, family.published[record.index])
        if trouble:
            counts["wrong"] += 1
            complaints.append(f"{record.name}: {trouble}")
    seconds = tuple(record.seconds for record in records)
    split = [r for r in records if r.counts.get("boxes")]
    return FamilyResult(
        counts,
        seconds,
        tuple(complaints),
        sum(r.counts["boxes"] for r in split),
        sum(r.engine_seconds["input-split"] for r in split),
    )


def _trouble(record: Record, instance: Instance, word: str, published: str) -> str:
    if {word, published} == {"sat", "unsat"}:
        return f"{word}, published {published}"
    if word != "sat":
        return ""
    if record.pictures is None:
        return "sat without a witness"
    good = holds(instance.onnx, instance.vnnlib, record.pictures.witness)
    return "" if good else "the witness does not hold in the second opinion"


@click.command()
@click.option("--timeout", default=10.0, show_default=True, help="Seconds a property.")
@click.option("--families", help="Folders of the pack, with commas between; all by default.")
@click.option("--engines", default=",".join(DEFAULT_ENGINES), show_default=True)
@click.option("--workers", default=2, show_default=True, help="Processes.")
@click.option("--store", type=click.Path(path_type=Path), help="Folder for the run stores.")
@click.option("--short", is_flag=True, help="Three of each family, at most five seconds each.")
def main(**options: Any) -> None:
    """Print one row for each family; exit code 1 if anything is wrong."""
    timeout = min(options["timeout"], 5.0) if options["short"] else options["timeout"]
    root = data_root() / "vnncomp"
    chosen = options["families"]
    names = chosen.split(",") if chosen else sorted(p.parent.name for p in root.glob(f"*/{_LIST}"))
    work = WorkOptions(tuple(options["engines"].split(",")))
    results, machine = {}, ""
    for name in names:
        family = _read_family(root / name / _LIST, options["short"])
        rows = InstanceList(family.instances, str(root / name / _LIST), timeout)
        plan = plan_instances(rows, work, command=" ".join(sys.argv))
        place = None if options["store"] is None else options["store"] / f"{name}.db"
        results[name] = judge(run_records(plan, options["workers"], place), family)
        machine = describe_machine(plan)
    for name, result in results.items():
        for line in result.complaints:
            click.echo(f"{name}: {line}")
    table = [result.row(name) for name, result in results.items()]
    print_table(f"VNN-COMP, {timeout:g} s a property", _COLUMNS, [*table, _total(results)])
    click.echo(f"{options['workers']} workers; {machine}")
    sys.exit(any(result.counts["wrong"] for result in results.values()))


def _read_family(path: Path, short: bool) -> Family:
    """The list and its column `verdict`; a few rows of it where it shall be short."""
    instances = tuple(load_instances(path))
    with path.open(newline="", encoding="utf-8") as file:
        published = tuple(row["verdict"] for row in csv.DictReader(file))
    step = max(1, len(instances) // _SHORT_FAMILY) if short else 1
    return Family(instances[::step], published[::step])


def _total(results: dict[str, FamilyResult]) -> tuple[str, ...]:
    everything = list(results.values())
    counts = sum((result.counts for result in everything), Counter[str]())
    seconds = tuple(s for result in everything for s in result.seconds)
    boxes = sum(result.boxes for result in everything)
    spent = sum(result.box_seconds for result in everything)
    return FamilyResult(counts, seconds, (), boxes, spent).row("all")


if __name__ == "__main__":
    main()
