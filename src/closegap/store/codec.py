"""Records and headers as what SQLite keeps: numbers, text and bytes; and back."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import sqlite3
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from closegap.core.errors import StoreError
from closegap.core.verdict import Reason, Verdict
from closegap.store.keys import canonical_json
from closegap.store.records import BracketEvent, Pictures, Record, RunHeader

__all__ = [
    "RESULT_COLUMNS",
    "decode_header",
    "decode_pictures",
    "decode_record",
    "encode_header",
    "encode_history",
    "encode_pictures",
    "encode_record",
]

RESULT_COLUMNS: tuple[str, ...] = (
    "key", "position", "name", "label", "target", "verdict", "reason", "detail",
    "lower", "upper", "engine", "seconds", "engine_seconds", "counts",
)  # fmt: skip

_TUPLES = ("engines", "class_names")


def encode_header(header: RunHeader) -> str:
    """The header as strict JSON.

    Raises:
        ValueError: a number is NaN or infinite.
    """
    return canonical_json(dataclasses.asdict(header))


def decode_header(text: str) -> RunHeader:
    """The header from its JSON; fields that this version does not know are left out.

    Raises:
        StoreError: the text is not a header.
    """
    known = {field.name for field in dataclasses.fields(RunHeader)}
    try:
        values: dict[str, Any] = {k: v for k, v in json.loads(text).items() if k in known}
        return RunHeader(**values | {name: tuple(values.get(name, ())) for name in _TUPLES})
    except (ValueError, TypeError, AttributeError) as error:
        raise StoreError(f"the run store's header cannot be read: {error}") from None


def encode_record(record: Record) -> tuple[object, ...]:
    """The values of `RESULT_COLUMNS`.

    Raises:
        ValueError: an end of the bracket or a time is NaN, which no record may hold.
    """
    if any(math.isnan(value) for value in (record.lower, record.upper, record.seconds)):
        raise ValueError(f"record {record.index} holds a NaN")
    return (
        record.key, record.index, record.name, record.label, record.target, str(record.verdict),
        None if record.reason is None else str(record.reason), record.detail,
        record.lower, record.upper, record.engine, record.seconds,
        _encode_seconds(record),
        _ordered_json(record.counts),
    )  # fmt: skip


def encode_history(record: Record) -> list[tuple[object, ...]]:
    """Rows of the `history` table."""
    return [
        (record.key, step, event.seconds, event.engine, event.lower, event.upper)
        for step, event in enumerate(record.history)
    ]


def decode_record(
    row: sqlite3.Row, history: Sequence[sqlite3.Row], pictures: Pictures | None
) -> Record:
    """A record from its row in `results`, its rows in `history` in order, and its pictures.

    Raises:
        StoreError: a value is not what a record holds.
    """
    try:
        engine_seconds, part_seconds = _decode_seconds(row["engine_seconds"])
        return Record(
            key=row["key"],
            index=row["position"],
            name=row["name"],
            label=row["label"],
            target=row["target"],
            verdict=Verdict(row["verdict"]),
            reason=None if row["reason"] is None else Reason(row["reason"]),
            detail=row["detail"],
            lower=float(row["lower"]),
            upper=float(row["upper"]),
            engine=row["engine"],
            seconds=float(row["seconds"]),
            engine_seconds=engine_seconds,
            part_seconds=part_seconds,
            history=tuple(
                BracketEvent(float(e["seconds"]), e["engine"], float(e["lower"]), float(e["upper"]))
                for e in history
            ),
            counts={k: int(v) for k, v in json.loads(row["counts"]).items()},
            pictures=pictures,
        )
    except (ValueError, TypeError, AttributeError) as error:
        raise StoreError(f"a record of the run store cannot be read: {error}") from None


def encode_pictures(pictures: Pictures) -> bytes:
    """A compressed npz archive with one array for each field."""
    arrays = {f.name: getattr(pictures, f.name) for f in dataclasses.fields(Pictures)}
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


def decode_pictures(data: bytes) -> Pictures:
    """The arrays of an npz archive; nothing in it is ever executed.

    Raises:
        StoreError: the archive is damaged or lacks an array.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            return Pictures(**{f.name: archive[f.name] for f in dataclasses.fields(Pictures)})
    except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise StoreError(f"pictures of the run store cannot be read: {error}") from None


def _encode_seconds(record: Record) -> str:
    """The engines' seconds; a list of theirs and their parts' where there are any."""
    whole, parts = record.engine_seconds, record.part_seconds
    return json.dumps([whole, parts] if parts else whole, allow_nan=False)


def _decode_seconds(text: str) -> list[dict[str, float]]:
    held = json.loads(text)
    both = held if isinstance(held, list) else [held, {}]
    return [{name: float(spent) for name, spent in each.items()} for each in both]


def _ordered_json(values: dict[str, Any]) -> str:
    """Strict JSON that keeps the order of the keys (engines in the order they ran)."""
    return json.dumps(values, allow_nan=False)
