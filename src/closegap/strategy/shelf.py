"""Where a query's snapshot lies, and what it held when the query began."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from closegap.core.errors import StoreError
from closegap.store.snapshots import Snapshot, SnapshotFile

__all__ = ["Arrays", "Shelf"]

Arrays = Mapping[str, NDArray[np.generic]]

#: Between an engine's name and that of an array of its tree.
_MARK = "/"


class Shelf:
    """One query's snapshot.

    A snapshot that is damaged or not this query's is refused, and the search begins anew.

    Args:
        file: where it lies; `None` keeps nothing.

    Attributes:
        file: likewise.
        kept: what it held, or `None`.
        refusal: why it was not used; empty if it was, or if there was none.
        trees: by engine, what gives the arrays of its tree between its turns.
    """

    def __init__(self, file: SnapshotFile | None = None) -> None:
        self.file = file
        self.kept: Snapshot | None = None
        self.refusal = ""
        self.trees: dict[str, Callable[[], Arrays]] = {}
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
        if self.kept is None:
            return {}
        mark = engine + _MARK
        arrays = self.kept.arrays.items()
        return {name.removeprefix(mark): array for name, array in arrays if name.startswith(mark)}

    def beside(self, engine: str, arrays: Arrays) -> dict[str, NDArray[np.generic]]:
        """An engine's arrays and those of all other trees, each under its engine's name.

        Trees of an earlier run that no engine has gone on with stay as they were kept.
        """
        kept = {} if self.kept is None else self.kept.arrays
        old = {n: a for n, a in kept.items() if _MARK in n}
        trees = {engine: arrays}
        trees |= {name: give() for name, give in self.trees.items() if name != engine}
        told = tuple(name + _MARK for name in trees)
        found = {n: a for n, a in old.items() if not n.startswith(told)}
        return found | {f"{e}{_MARK}{n}": a for e, tree in trees.items() for n, a in tree.items()}

    def clear(self) -> None:
        """Forget what was kept: the search that it held is over."""
        self.kept = None
        self.trees.clear()

    def refuse(self, why: str) -> None:
        """Forget what was kept."""
        self.kept, self.refusal = None, f"{why}; the search begins anew"
        self.trees.clear()
