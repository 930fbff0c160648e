"""Verdicts by class, or by family for lists of properties."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath

from closegap.core.verdict import Verdict
from closegap.report.figures.data import BarFigure, BarPanel, Bars, Role
from closegap.report.wording import class_name
from closegap.store.records import Record, RunHeader

__all__ = ["family", "groups"]

#: More rows than this cannot be read; the smallest groups are put together.
_MOST_ROWS = 20

#: Folder names that say what a file is, not which family it belongs to.
_GENERIC_FOLDERS = frozenset(
    {"", ".", "..", "/", "vnnlib", "specs", "spec", "properties", "instances"}
)

_NUMBER = re.compile(r"[-_.]?\d+([._]\d+)*")


def family(name: str) -> str:
    """The family of a property file: its folder, else its name without endings and numbers.

    `acasxu/vnnlib/prop_3.vnnlib.gz` gives `acasxu`, `vnnlib/vdp_12.vnnlib` gives `vdp`.
    """
    path = PurePosixPath(name.replace("\\", "/"))
    for folder in reversed(path.parent.parts):
        if folder.lower() not in _GENERIC_FOLDERS:
            return folder
    stem = path.name.split(".vnnlib")[0]
    return _NUMBER.sub("", stem).strip("-_. ") or stem or "unnamed"


def groups(header: RunHeader, records: Sequence[Record]) -> BarFigure:
    """Counts of verified, unknown and falsified queries by class or by family."""
    by_class = any(r.label is not None for r in records)
    keys = [_class_key(r, header) if by_class else (0, family(r.name)) for r in records]
    sizes = Counter(keys)
    shown = sorted(sizes)
    if len(shown) > _MOST_ROWS:
        largest = sorted(shown, key=lambda k: (-sizes[k], k))[: _MOST_ROWS - 1]
        shown = sorted(largest)
    counts = Counter(
        (k[1] if k in set(shown) else "all others", r.verdict)
        for k, r in zip(keys, records, strict=True)
    )
    names = tuple(k[1] for k in shown) + (("all others",) if len(shown) < len(sizes) else ())
    roles: tuple[tuple[Verdict, Role], ...] = (
        (Verdict.VERIFIED, "verified"),
        (Verdict.UNKNOWN, "unknown"),
        (Verdict.FALSIFIED, "falsified"),
    )
    stacks = tuple(
        Bars(str(verdict), role, tuple(float(counts[name, verdict]) for name in names))
        for verdict, role in roles
    )
    what = "class" if by_class else "family"
    return BarFigure(
        title=f"By {what}",
        lead=f"Verdicts of the queries of each {what}.",
        summary="; ".join(
            f"{name}: " + ", ".join(f"{int(s.values[i])} {s.name}" for s in stacks)
            for i, name in enumerate(names)
        )
        + ".",
        heading=what,
        categories=names,
        panels=(
            BarPanel(
                "queries", stacks, tuple(str(int(sum(column))) for column in _columns(stacks))
            ),
        ),
        empty="No query is finished.",
    )


def _class_key(record: Record, header: RunHeader) -> tuple[int, str]:
    if record.label is None:
        return (-1, "no class")
    return (record.label, class_name(record.label, header))


def _columns(stacks: tuple[Bars, ...]) -> list[tuple[float, ...]]:
    return list(zip(*(s.values for s in stacks), strict=True))
