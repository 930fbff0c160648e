"""Where a query's snapshot lies, and what it held when the query began."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from closegap.core.errors import StoreError
from closegap.store.snapshots import Snapshot, SnapshotFile

__all__ = ["Arrays", "Shelf"]

Arrays = Mapping[str, NDArray[np.generic]]


class Shelf:
    """One query's snapshot.

    A snapshot that is damaged or not this query's is refused, and the search begins anew.

    Args:
        file: where it lies; `None` keeps nothing.

    Attributes:
        file: likewise.
        kept: what it held, or `None`.
        refusal: why it was not used; empty if it was, or if there was none.
    """

    def __init__(self, file: SnapshotFile | None = None) -> None:
        self.file = file
        self.kept: Snapshot | None = None
        self.refusal = ""
        try:
            self.kept = None if file is None else file.load()
        except StoreError as error:
            self.refuse(str(error))

    @property
    def engine(self) -> str:
        """The engine that was searching; empty if nothing is kept."""
        return "" if self.kept is None else str(self.kept.facts["engine"])

    def tree(self, engine: str) -> Arrays:
        """The arrays an engine kept; empty if it kept none."""
        return self.kept.arrays if self.kept is not None and engine == self.engine else {}

    def clear(self) -> None:
        """Forget what was kept: the search that it held is over."""
        self.kept = None

    def refuse(self, why: str) -> None:
        """Forget what was kept."""
        self.kept, self.refusal = None, f"{why}; the search begins anew"
