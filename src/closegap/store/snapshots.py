"""Snapshots of long searches beside a run store, so that a killed run goes on inside them.

A snapshot is an npz archive: arrays, and a manifest in JSON that says what it belongs to. It is
written next to its place and then moved there, so that at every moment the file is a whole snapshot
or none. It is read back only for the same query, asked the same way, by the same version.
"""

from __future__ import annotations

import io
import json
import os
import time
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import closegap
from closegap.core.errors import StoreError
from closegap.store.keys import canonical_json

__all__ = ["Snapshot", "SnapshotFile", "SnapshotFolder"]

#: Raised when the meaning of anything inside changes.
_FORMAT = 5
#: Seconds between two snapshots of one search ...
_EVERY_SECONDS = 30.0
#: ... and at least so many times what writing the last one took.
_PATIENCE = 20.0
_MANIFEST = "manifest"
_SUFFIX = ".npz"


@dataclass(frozen=True, eq=False)
class Snapshot:
    """What was kept.

    Attributes:
        facts: JSON values.
        arrays: by name.
    """

    facts: dict[str, Any]
    arrays: dict[str, NDArray[np.generic]]


class SnapshotFile:
    """The place of one query's snapshot.

    Args:
        path: of the file.
        key: of the query, see `query_key`; other queries' snapshots are refused.
        seconds: between two snapshots; 0 for one at every step.
    """

    def __init__(self, path: Path, key: str, *, seconds: float = _EVERY_SECONDS) -> None:
        self.path = path
        self._identity = {"format": _FORMAT, "closegap": closegap.__version__, "query": key}
        self._seconds = seconds
        self._next = time.monotonic() + seconds

    @property
    def due(self) -> bool:
        """True when it is time for another snapshot."""
        return time.monotonic() >= self._next

    def load(self) -> Snapshot | None:
        """The snapshot, or `None` if there is none.

        Raises:
            StoreError: it is damaged, of another query or of another version.
        """
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"snapshot {self.path}: cannot be read ({error.strerror})") from None
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
            manifest = json.loads(arrays.pop(_MANIFEST).tobytes())
            held, facts = manifest["identity"], dict(manifest["facts"])
        except (ValueError, KeyError, TypeError, OSError, EOFError, zipfile.BadZipFile):
            raise StoreError(f"snapshot {self.path}: it is damaged") from None
        for name, value in self._identity.items():
            if held.get(name) != value:
                raise StoreError(f"snapshot {self.path}: it is of another {_WORDS[name]}")
        return Snapshot(facts, arrays)

    def save(self, snapshot: Snapshot) -> None:
        """Put a snapshot in place of the one before.

        Raises:
            StoreError: it cannot be written; the one before stays.
        """
        began = time.monotonic()
        text = canonical_json({"identity": self._identity, "facts": snapshot.facts})
        manifest = np.frombuffer(text.encode(), np.uint8)
        part = self.path.with_suffix(".part")
        try:
            self.path.parent.mkdir(exist_ok=True)
            with part.open("wb") as stream:
                np.savez(stream, allow_pickle=False, **{_MANIFEST: manifest}, **snapshot.arrays)
                stream.flush()
                os.fsync(stream.fileno())
            part.replace(self.path)
        except OSError as error:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            raise StoreError(
                f"snapshot {self.path}: cannot be written ({error.strerror})"
            ) from None
        finally:
            now = time.monotonic()
            pause = max(self._seconds, _PATIENCE * (now - began)) if self._seconds else 0.0
            self._next = now + pause

    def delete(self) -> None:
        """Forget the snapshot; harmless when there is none."""
        for path in (self.path, self.path.with_suffix(".part")):
            path.unlink(missing_ok=True)


#: What differs, in words.
_WORDS = {"format": "format", "closegap": "version of closegap", "query": "query"}


@dataclass(frozen=True)
class SnapshotFolder:
    """Where the snapshots of a run lie: a folder beside its store, there while it holds any.

    Attributes:
        path: of the folder.
        seconds: between two snapshots of one query.
    """

    path: str
    seconds: float = _EVERY_SECONDS

    @classmethod
    def beside(cls, store: Path, seconds: float = _EVERY_SECONDS) -> SnapshotFolder:
        """The folder that belongs to a run store."""
        return cls(str(store.parent / f"{store.name}.trees"), seconds)

    def file(self, key: str, case: int = 0) -> SnapshotFile:
        """The place for one case of a query."""
        name = f"{key}-{case}"
        return SnapshotFile(Path(self.path) / f"{name}{_SUFFIX}", name, seconds=self.seconds)

    def discard(self, key: str) -> None:
        """Forget every snapshot of a query that has its answer; and the folder, once empty."""
        for path in Path(self.path).glob(f"{key}-*"):
            path.unlink(missing_ok=True)
        with suppress(OSError):  # not empty, or not there
            Path(self.path).rmdir()
