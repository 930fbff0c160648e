"""The tables of a run store, and the marks by which a file is known to be one.

Version 1: `meta` holds the header as JSON; `results` one row for each finished query; `history`
the improvements of its bracket; `pictures` the arrays of a falsified query as an npz archive.
Version 2 adds the same three for distance queries: `distances`, `distance_history` and
`distance_pictures`. A store of version 1 stays as it is and holds no distances.
A later version raises `SCHEMA_VERSION`, and still reads what an earlier one wrote.
"""

from __future__ import annotations

__all__ = ["APPLICATION_ID", "SCHEMA_VERSION", "TABLES"]

#: "cgap" in ASCII, in SQLite's `application_id`.
APPLICATION_ID = 0x63676170

#: Kept in SQLite's `user_version`.
SCHEMA_VERSION = 2

TABLES: tuple[str, ...] = (
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    """CREATE TABLE results (
        key TEXT PRIMARY KEY,
        position INTEGER NOT NULL,
        name TEXT NOT NULL,
        label INTEGER,
        target TEXT NOT NULL,
        verdict TEXT NOT NULL,
        reason TEXT,
        detail TEXT NOT NULL,
        lower REAL NOT NULL,
        upper REAL NOT NULL,
        engine TEXT NOT NULL,
        seconds REAL NOT NULL,
        engine_seconds TEXT NOT NULL,
        counts TEXT NOT NULL
    )""",
    """CREATE TABLE history (
        key TEXT NOT NULL REFERENCES results (key),
        step INTEGER NOT NULL,
        seconds REAL NOT NULL,
        engine TEXT NOT NULL,
        lower REAL NOT NULL,
        upper REAL NOT NULL,
        PRIMARY KEY (key, step)
    ) WITHOUT ROWID""",
    "CREATE TABLE pictures (key TEXT PRIMARY KEY REFERENCES results (key), npz BLOB NOT NULL)",
    """CREATE TABLE distances (
        key TEXT PRIMARY KEY,
        position INTEGER NOT NULL,
        label INTEGER NOT NULL,
        distance TEXT NOT NULL,
        options TEXT NOT NULL,
        target INTEGER,
        lower REAL NOT NULL,
        upper REAL NOT NULL,
        tolerance REAL NOT NULL,
        seconds REAL NOT NULL,
        detail TEXT NOT NULL,
        counts TEXT NOT NULL,
        part_seconds TEXT NOT NULL,
        metrics TEXT NOT NULL
    )""",
    """CREATE TABLE distance_history (
        key TEXT NOT NULL REFERENCES distances (key),
        step INTEGER NOT NULL,
        seconds REAL NOT NULL,
        engine TEXT NOT NULL,
        lower REAL NOT NULL,
        upper REAL NOT NULL,
        PRIMARY KEY (key, step)
    ) WITHOUT ROWID""",
    """CREATE TABLE distance_pictures (
        key TEXT PRIMARY KEY REFERENCES distances (key), npz BLOB NOT NULL, rounded BLOB
    )""",
)
