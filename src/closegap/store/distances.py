"""Records of distance queries: what is kept of them, and their rows in a run store."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import UInt8

from closegap.core.errors import StoreError
from closegap.store import codec
from closegap.store.records import BracketEvent, Pictures

__all__ = ["DistanceRecord", "improve", "insert", "keys", "read"]

_LEVELS = 255

_COLUMNS = (
    "key", "position", "label", "distance", "options", "target", "lower", "upper", "tolerance",
    "seconds", "detail", "counts", "part_seconds", "metrics",
)  # fmt: skip

_INSERT = (
    f"INSERT INTO distances ({', '.join(_COLUMNS)}) "
    f"VALUES ({', '.join('?' * len(_COLUMNS))}) ON CONFLICT (key) DO NOTHING"
)

_IMPROVE = (
    f"UPDATE distances SET {', '.join(f'{name} = ?' for name in _COLUMNS)} "
    "WHERE key = ? AND upper > ?"
)


@dataclass(frozen=True, eq=False)
class DistanceRecord:
    """One finished distance query: how far is it from an image to the nearest counterexample?

    Attributes:
        key: unique in its run.
        index: position in the data set.
        label: the true class.
        distance: the objective's name, such as `l1+tv`.
        options: what else defines the distance, JSON values by name.
        target: the class found at the witness, or `None`.
        lower: proved: nearer than this the label is kept; infinity where all of [0, 1] keeps it.
        upper: the witness's distance, rounded up; infinity where none was found.
        tolerance: a bracket of this upper end is closed where it is this narrow.
        seconds: wall-clock.
        detail: notes: the class of the rounded picture, why something is missing.
        history: every improvement of the bracket.
        counts: nodes and the like, by name.
        part_seconds: by part of the search.
        metrics: how sparse and how visible the change is, by name; see `evaluate.metrics`.
        pictures: of the clean image and the witness, where one was found.
        rounded: uint8, in the input's shape: the witness on the grid of 8-bit pictures, where it
            still loses its label; else `None`.
    """

    key: str
    index: int
    label: int
    distance: str
    options: dict[str, object]
    target: int | None
    lower: float
    upper: float
    tolerance: float
    seconds: float
    detail: str = ""
    history: tuple[BracketEvent, ...] = ()
    counts: dict[str, int] = field(default_factory=dict)
    part_seconds: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    pictures: Pictures | None = None
    rounded: UInt8[np.ndarray, "..."] | None = None

    @property
    def closed(self) -> bool:
        """Whether lower and upper end meet within the tolerance, or there is proved to be none."""
        return self.none_exists or self.upper - self.lower <= self.tolerance

    @property
    def none_exists(self) -> bool:
        """Whether it is proved that no input in [0, 1] loses the label."""
        return self.lower == math.inf

    @property
    def channels_last(self) -> bool:
        """Whether a flat input runs over `[H, W, C]`."""
        return self.options.get("layout") == "hwc"

    @property
    def misclassified(self) -> bool:
        """Whether the image itself loses the label: its distance of 0 says nothing of others."""
        held = self.pictures
        return self.upper == 0 and (held is None or np.array_equal(held.clean, held.witness))

    @property
    def rounding(self) -> str | None:
        """Of the witness as an 8-bit picture: `kept` or `repaired` where it loses its label.

        `lost` where it keeps the label, and no other rounding was found; `None` without a witness.
        """
        if self.pictures is None:
            return None
        if self.rounded is None:
            return "lost"
        nearest = np.rint(_LEVELS * self.pictures.witness.astype(np.float64))
        return "kept" if np.array_equal(self.rounded, nearest) else "repaired"

    @property
    def state(self) -> str:
        """`closed`, `open`, `misclassified`, or, where it is proved, `none exists`."""
        if self.none_exists:
            return "none exists"
        if self.misclassified:
            return "misclassified"
        return "closed" if self.closed else "open"

    def row(self) -> dict[str, object]:
        """The JSON row: strict JSON, no arrays.

        `upper` is `None` where no witness was found, `lower` too where none exists.
        """
        return {
            "index": self.index,
            "label": self.label,
            "distance": self.distance,
            "options": self.options,
            "lower": self.lower if math.isfinite(self.lower) else None,
            "upper": self.upper if math.isfinite(self.upper) else None,
            "verdict": self.state,
            "tolerance": self.tolerance,
            "target": self.target,
            "rounding": self.rounding,
            "seconds": round(self.seconds, 6),
            "metrics": _strict({name: round(value, 6) for name, value in self.metrics.items()}),
            "counts": self.counts,
            "part_seconds": {name: round(value, 6) for name, value in self.part_seconds.items()},
            "detail": self.detail,
        }


def _strict(values: Mapping[str, float]) -> dict[str, float | str | None]:
    """Numbers as JSON knows them: infinity as a word, which `float` reads, and NaN as `None`."""
    return {
        name: value if math.isfinite(value) else None if math.isnan(value) else str(value)
        for name, value in values.items()
    }


def insert(connection: sqlite3.Connection, record: DistanceRecord) -> bool:
    """Write a record; the caller holds a transaction.

    Returns:
        False if a record with this key was there already; then nothing changes.

    Raises:
        ValueError: an end of the bracket or a time is NaN.
    """
    if not connection.execute(_INSERT, _row(record)).rowcount:
        return False
    _insert_rest(connection, record)
    return True


def improve(connection: sqlite3.Connection, record: DistanceRecord) -> bool:
    """Put a record in the place of the one with its key; the caller holds a transaction.

    Returns:
        False if there is none, or its upper end is no farther; then nothing changes.

    Raises:
        ValueError: an end of the bracket or a time is NaN.
    """
    if not connection.execute(_IMPROVE, (*_row(record), record.key, record.upper)).rowcount:
        return False
    for table in ("distance_history", "distance_pictures"):
        connection.execute(f"DELETE FROM {table} WHERE key = ?", (record.key,))
    _insert_rest(connection, record)
    return True


def _row(record: DistanceRecord) -> tuple[object, ...]:
    """In the order of `_COLUMNS`."""
    if any(math.isnan(value) for value in (record.lower, record.upper, record.seconds)):
        raise ValueError(f"distance record {record.index} holds a NaN")
    known = _strict({n: v for n, v in record.metrics.items() if not math.isnan(v)})
    return (
        record.key, record.index, record.label, record.distance, json.dumps(record.options),
        record.target, record.lower, record.upper, record.tolerance, record.seconds, record.detail,
        *(json.dumps(d, allow_nan=False) for d in (record.counts, record.part_seconds, known)),
    )  # fmt: skip


def _insert_rest(connection: sqlite3.Connection, record: DistanceRecord) -> None:
    """History and pictures."""
    connection.executemany(
        "INSERT INTO distance_history VALUES (?, ?, ?, ?, ?, ?)",
        [
            (record.key, step, event.seconds, event.engine, event.lower, event.upper)
            for step, event in enumerate(record.history)
        ],
    )
    if record.pictures is not None:
        rounded = None if record.rounded is None else record.rounded.tobytes()
        connection.execute(
            "INSERT INTO distance_pictures VALUES (?, ?, ?)",
            (record.key, codec.encode_pictures(record.pictures), rounded),
        )


def keys(connection: sqlite3.Connection) -> list[str]:
    """Keys by image, then in the order they were kept; none in a store of format 1."""
    known = "SELECT count(*) FROM sqlite_schema WHERE name = 'distances'"
    if not connection.execute(known).fetchone()[0]:
        return []
    order = "SELECT key FROM distances ORDER BY position, rowid"
    return [row[0] for row in connection.execute(order)]


def read(connection: sqlite3.Connection, key: str, *, pictures: bool = True) -> DistanceRecord:
    """The record with this key.

    Raises:
        StoreError: a value is not what a record holds.
    """
    run = connection.execute
    row = run("SELECT * FROM distances WHERE key = ?", (key,)).fetchone()
    steps = run("SELECT * FROM distance_history WHERE key = ? ORDER BY step", (key,)).fetchall()
    held = None
    if pictures:
        held = run("SELECT * FROM distance_pictures WHERE key = ?", (key,)).fetchone()
    try:
        return DistanceRecord(
            key=row["key"],
            index=row["position"],
            label=row["label"],
            distance=row["distance"],
            options=_object(row["options"]),
            target=row["target"],
            lower=float(row["lower"]),
            upper=float(row["upper"]),
            tolerance=float(row["tolerance"]),
            seconds=float(row["seconds"]),
            detail=row["detail"],
            history=tuple(
                BracketEvent(float(e["seconds"]), e["engine"], float(e["lower"]), float(e["upper"]))
                for e in steps
            ),
            counts={name: int(many) for name, many in _object(row["counts"]).items()},
            part_seconds={n: float(v) for n, v in _object(row["part_seconds"]).items()},
            metrics={n: float(v) for n, v in _object(row["metrics"]).items()},
            **_arrays(held),
        )
    except (ValueError, TypeError, AttributeError) as error:
        raise StoreError(f"a record of the run store cannot be read: {error}") from None


def _object(text: str) -> dict[str, Any]:
    held = json.loads(text)
    if not isinstance(held, dict):
        raise ValueError(f"{text[:40]} is no JSON object")
    return held


def _arrays(held: sqlite3.Row | None) -> dict[str, Any]:
    if held is None:
        return {}
    pictures = codec.decode_pictures(held["npz"])
    if held["rounded"] is None:
        return {"pictures": pictures}
    rounded = np.frombuffer(held["rounded"], dtype=np.uint8).reshape(pictures.clean.shape)
    return {"pictures": pictures, "rounded": rounded}
