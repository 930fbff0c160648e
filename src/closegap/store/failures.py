"""SQLite's and the operating system's errors, translated at the border."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from closegap.core.errors import StoreError

__all__ = ["translated"]

_SQLITE_TEXTS: dict[int, str] = {
    sqlite3.SQLITE_FULL: "the disk is full; what was finished is kept, free space and run again",
    sqlite3.SQLITE_IOERR: "reading or writing failed ({error}); is the disk full, or a limit met?",
    sqlite3.SQLITE_READONLY: "it cannot be written; choose a folder you may write to",
    sqlite3.SQLITE_PERM: "it cannot be written; choose a folder you may write to",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened or created; choose a folder you may write to",
    sqlite3.SQLITE_NOTADB: "it is not a run store (not an SQLite file); choose another name",
    sqlite3.SQLITE_CORRUPT: "it is damaged ({error}); move it away and run again",
    sqlite3.SQLITE_BUSY: "another process holds it; wait for that run to end, or stop it",
    sqlite3.SQLITE_LOCKED: "another process holds it; wait for that run to end, or stop it",
}

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Within it, every foreign error about the store at `path` becomes a one-line `StoreError`."""
    try:
        yield
    except sqlite3.Error as error:
        primary = getattr(error, "sqlite_errorcode", 0) & 0xFF
        text = _SQLITE_TEXTS.get(primary, "it cannot be used ({error})")
        raise StoreError(f"run store {path}: {text.format(error=error)}") from error
    except OSError as error:
        if error.errno in _FULL:
            text = _SQLITE_TEXTS[sqlite3.SQLITE_FULL]
        else:
            text = f"{error.strerror or error}; choose a folder you may write to"
        raise StoreError(f"run store {path}: {text}") from error
