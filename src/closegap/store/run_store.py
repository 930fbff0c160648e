"""One run in one SQLite file.

The file is in WAL mode and every record is one transaction, so a run that is killed at any moment
leaves a valid store and loses only the queries that were still being worked on.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from closegap.core.errors import StoreError
from closegap.store import codec, distances
from closegap.store.distances import DistanceRecord
from closegap.store.failures import translated
from closegap.store.records import Record, RunHeader
from closegap.store.schema import APPLICATION_ID, SCHEMA_VERSION, TABLES

__all__ = ["RunStore"]

#: How long one writer waits for another, in seconds.
_BUSY_SECONDS = 30.0

#: What must agree for a run to continue, and the words for it.
_IDENTITY: dict[str, str] = {
    "kind": "kind of run",
    "model_digest": "model",
    "data_digest": "data",
    "eps": "radius",
    "norm": "norm",
    "timeout": "timeout",
    "engines": "engines",
    "settings": "settings",
    "seed": "seed",
}

_INSERT_RESULT = (
    f"INSERT INTO results ({', '.join(codec.RESULT_COLUMNS)}) "
    f"VALUES ({', '.join('?' * len(codec.RESULT_COLUMNS))}) ON CONFLICT (key) DO NOTHING"
)


class RunStore:
    """A run's header and its finished records. Made by `open` or `create_or_resume`.

    Several processes may write to one store: each record is one transaction, and of two records
    with one key the first is kept. One object belongs to one thread.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection

    @classmethod
    def open(cls, path: str | Path) -> RunStore:
        """Open a store that exists.

        Raises:
            StoreError: there is no such file, or it is not a run store that this version reads.
        """
        place = Path(path)
        if not place.is_file():
            raise StoreError(f"run store {place}: no such file")
        store = cls._connect(place)
        try:
            with translated(place):
                store._require_ours()
        except BaseException:
            store.close()
            raise
        return store

    @classmethod
    def create_or_resume(cls, path: str | Path, header: RunHeader) -> RunStore:
        """Begin a run at `path`, or continue the one that is there.

        Raises:
            StoreError: the store there belongs to another run (the text says what differs), is not
                a run store, or cannot be written.
        """
        place = Path(path)
        if place.is_dir():
            raise StoreError(f"run store {place}: it is a folder; give the name of a file")
        if not place.parent.is_dir():
            raise StoreError(f"run store {place}: the folder {place.parent} does not exist")
        store = cls._connect(place)
        try:
            with translated(place):
                with store._transaction():
                    store._begin_or_continue(header)
                store._connection.execute("PRAGMA journal_mode = WAL")
        except BaseException:
            store.close()
            raise
        return store

    def header(self) -> RunHeader:
        """What the run was asked to do."""
        with translated(self.path):
            row = self._connection.execute("SELECT value FROM meta WHERE name = 'header'")
            text = row.fetchone()
        if text is None:
            raise StoreError(f"run store {self.path}: it has no header; move it away and run again")
        return codec.decode_header(text[0])

    def set_total(self, total: int) -> None:
        """Put down how many queries the run has, when a continued run asks for more of them."""
        header = replace(self.header(), total=total)
        with translated(self.path), self._transaction():
            self._write_header(header)

    def add(self, record: Record) -> bool:
        """Keep a finished record, with its history and pictures, in one transaction.

        Returns:
            False if a record with this key was there already; then nothing changes.

        Raises:
            StoreError: it cannot be written (a full disk, say); the store stays as it was.
        """
        row = codec.encode_record(record)
        history = codec.encode_history(record)
        pictures = None if record.pictures is None else codec.encode_pictures(record.pictures)
        with translated(self.path), self._transaction():
            if not self._connection.execute(_INSERT_RESULT, row).rowcount:
                return False
            self._connection.executemany("INSERT INTO history VALUES (?, ?, ?, ?, ?, ?)", history)
            if pictures is not None:
                self._connection.execute(
                    "INSERT INTO pictures VALUES (?, ?)", (record.key, pictures)
                )
        return True

    def finished_keys(self) -> frozenset[str]:
        """Keys of the records that are in the store."""
        with translated(self.path):
            return frozenset(r[0] for r in self._connection.execute("SELECT key FROM results"))

    def records(self, *, pictures: bool = True) -> Iterator[Record]:
        """The records by index, one at a time, so that memory stays small.

        Args:
            pictures: False leaves the arrays of falsified queries on disk.
        """
        with translated(self.path):
            order = self._connection.execute("SELECT key FROM results ORDER BY position, key")
            keys = [row[0] for row in order]
        for key in keys:
            yield self._record(key, pictures)

    def add_distance(self, record: DistanceRecord) -> bool:
        """Keep a finished distance query in one transaction; see `add`.

        Returns:
            False if a record with this key was there already; then nothing changes.

        Raises:
            StoreError: it cannot be written; the store stays as it was.
        """
        with translated(self.path), self._transaction():
            return distances.insert(self._connection, record)

    def improve_distance(self, record: DistanceRecord) -> bool:
        """Put a record with a nearer witness in the place of the one with its key; see `add`.

        Returns:
            False if there is none, or its upper end is no farther; then nothing changes.

        Raises:
            StoreError: it cannot be written; the store stays as it was.
        """
        with translated(self.path), self._transaction():
            return distances.improve(self._connection, record)

    def distance_keys(self) -> frozenset[str]:
        """Keys of the distance queries that are in the store."""
        with translated(self.path):
            return frozenset(distances.keys(self._connection))

    def distances(self, *, pictures: bool = True) -> Iterator[DistanceRecord]:
        """The distance queries by image, one at a time; those of an image in the order kept."""
        with translated(self.path):
            held = distances.keys(self._connection)
        for key in held:
            with translated(self.path):
                record = distances.read(self._connection, key, pictures=pictures)
            yield record

    def __len__(self) -> int:
        with translated(self.path):
            return int(self._connection.execute("SELECT count(*) FROM results").fetchone()[0])

    def close(self) -> None:
        """Close the file; harmless when repeated."""
        self._connection.close()

    def __enter__(self) -> RunStore:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @classmethod
    def _connect(cls, place: Path) -> RunStore:
        # A WAL file in a folder that cannot be written is readable only when declared immutable.
        frozen = "?immutable=1" if place.exists() and not os.access(place.parent, os.W_OK) else ""
        with translated(place):
            connection = sqlite3.connect(
                place.absolute().as_uri() + frozen,
                timeout=_BUSY_SECONDS,
                isolation_level=None,
                uri=True,
            )
        try:
            with translated(place):
                connection.row_factory = sqlite3.Row
                connection.execute("PRAGMA foreign_keys = ON")
                connection.execute("PRAGMA synchronous = FULL")
        except BaseException:
            connection.close()
            raise
        return cls(place, connection)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All or nothing; takes the writer's place at once, so that two never deadlock."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    def _record(self, key: str, pictures: bool) -> Record:
        run = self._connection.execute
        with translated(self.path):
            row = run("SELECT * FROM results WHERE key = ?", (key,)).fetchone()
            history = run("SELECT * FROM history WHERE key = ? ORDER BY step", (key,)).fetchall()
            blob = (
                run("SELECT npz FROM pictures WHERE key = ?", (key,)).fetchone()
                if pictures
                else None
            )
        arrays = None if blob is None else codec.decode_pictures(blob[0])
        return codec.decode_record(row, history, arrays)

    def _begin_or_continue(self, header: RunHeader) -> None:
        tables = self._connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
        if tables:
            self._require_ours()
            self._require_same_run(header)
            return
        for statement in TABLES:
            self._connection.execute(statement)
        self._connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        self._connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        self._write_header(header)

    def _write_header(self, header: RunHeader) -> None:
        self._connection.execute(
            "INSERT OR REPLACE INTO meta VALUES ('header', ?)", (codec.encode_header(header),)
        )

    def _require_ours(self) -> None:
        """Refuse a file that is not a run store, or that a newer version wrote."""
        run = self._connection.execute
        if run("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
            raise StoreError(f"run store {self.path}: it is not a run store; choose another name")
        version = run("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise StoreError(
                f"run store {self.path}: written by a newer closegap (format {version}, this one "
                f"reads up to {SCHEMA_VERSION}); upgrade closegap"
            )

    def _require_same_run(self, header: RunHeader) -> None:
        held = self.header()
        names = [n for n in _IDENTITY if getattr(held, n) != getattr(header, n)]
        if not names:
            return
        if "model_digest" in names:
            difference = f"it was made for another model ({held.model})"
        else:
            difference = "it was made for another run: " + ", ".join(
                _difference(n, held, header) for n in names
            )
        raise StoreError(f"run store {self.path}: {difference}; choose another --store")


def _difference(name: str, held: RunHeader, asked: RunHeader) -> str:
    if name == "data_digest":
        return f"data {held.data}, not {asked.data}"
    if name == "settings":
        keys = sorted(held.settings.keys() | asked.settings.keys())
        unlike = [k for k in keys if held.settings.get(k) != asked.settings.get(k)]
        return "settings " + ", ".join(
            f"{k} {held.settings.get(k)}, not {asked.settings.get(k)}" for k in unlike
        )
    before, now = getattr(held, name), getattr(asked, name)
    if name == "engines":
        before, now = ",".join(before), ",".join(now)
    return f"{_IDENTITY[name]} {before}, not {now}"
