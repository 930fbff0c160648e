"""The run store: one SQLite file in WAL mode that survives kills and resumes runs."""

from __future__ import annotations

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
