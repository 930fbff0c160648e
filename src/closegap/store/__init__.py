"""The run store: one SQLite file in WAL mode that survives kills and resumes runs.

Its parts load when they are first used: who waits for one record needs no database.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from closegap.core.imports import lazily

if TYPE_CHECKING:
    from closegap.store.distances import DistanceRecord
    from closegap.store.keys import query_key
    from closegap.store.records import BracketEvent, Pictures, Record, RunHeader
    from closegap.store.run_store import RunStore
    from closegap.store.snapshots import SnapshotFile, SnapshotFolder

__all__ = [
    "BracketEvent",
    "DistanceRecord",
    "Pictures",
    "Record",
    "RunHeader",
    "RunStore",
    "SnapshotFile",
    "SnapshotFolder",
    "query_key",
]

_HOME = {
    "BracketEvent": "records",
    "DistanceRecord": "distances",
    "Pictures": "records",
    "Record": "records",
    "RunHeader": "records",
    "RunStore": "run_store",
    "SnapshotFile": "snapshots",
    "SnapshotFolder": "snapshots",
    "query_key": "keys",
}

__getattr__, __dir__ = lazily(__name__, _HOME)
