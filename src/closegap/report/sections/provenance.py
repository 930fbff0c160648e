"""What was run, on what, and where: enough to run it again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from closegap.report.options import ReportOptions
from closegap.report.sections.base import SectionView
from closegap.report.wording import MISSING, number, radius
from closegap.store.distances import DistanceRecord
from closegap.store.records import Record, RunHeader

__all__ = ["provenance"]


def provenance(
    header: RunHeader, records: Sequence[Record] | Sequence[DistanceRecord], options: ReportOptions
) -> SectionView | None:
    """Hashes, versions, seed, command, machine and options of the run."""
    run = {
        "started": header.started,
        "finished": f"{len(records)} of {max(header.total, len(records))} queries",
        "engines": ", ".join(header.engines),
        "timeout": f"{number(header.timeout)} s a query",
        "radius": radius(header),
        "seed": str(header.seed),
    }
    files = {
        "model": header.model,
        "model SHA-256": header.model_digest,
        "instances" if header.kind == "instances" else "data": header.data,
        "data SHA-256": header.data_digest,
    }
    groups = {
        "Run": run,
        "Files": files,
        "Options": {k: _value(v) for k, v in sorted(header.settings.items())},
        "Versions": dict(sorted(header.versions.items())),
        "Machine": dict(sorted(header.machine.items())),
    }
    return SectionView(
        title="Provenance",
        template="provenance.html.j2",
        lead="Everything that can change an answer, as the run recorded it.",
        context={
            "command": header.command,
            "groups": {
                title: shown for title, pairs in groups.items() if (shown := _filled(pairs))
            },
        },
    )


def _value(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _filled(pairs: Mapping[str, str]) -> dict[str, str]:
    return {name: value or MISSING for name, value in pairs.items() if value or name == "seed"}
