"""A long search and what its query knew beside it, kept on disk and brought back."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from closegap.bounds.intermediate import NetworkBounds
from closegap.bounds.records import Interval
from closegap.core.errors import StoreError
from closegap.graph.network import Network
from closegap.specs.query import Query
from closegap.store.records import BracketEvent
from closegap.store.snapshots import Snapshot, SnapshotFile
from closegap.strategy.session import Session
from closegap.strategy.shelf import Arrays

__all__ = ["Keeper", "bring_back", "keeper", "pack_bounds", "question", "unpack_bounds"]


def bring_back(session: Session) -> float:
    """Give a new session what its query's snapshot held: proofs, best point, history, times, turn.

    Returns:
        seconds that were spent on the query before.
    """
    shelf = session.shelf
    if shelf.kept is None:
        return 0.0
    facts, arrays = shelf.kept.facts, shelf.kept.arrays
    try:
        seconds = float(facts["seconds"])
        if "session_point" in arrays:
            session.offer(
                arrays["session_point"][None].astype(np.float64), str(facts["upper_engine"])
            )
        session.remember(
            arrays["session_rows"].astype(np.float64),
            arrays["session_clauses"].astype(np.float64),
            str(facts["lower_engine"]),
            [_event(**event) for event in facts["history"]],
            seconds,
        )
        session.engine_seconds.update(facts["engine_seconds"])
        session.part_seconds.update(facts["part_seconds"])
        session.count(**facts["counts"])
        session.outlook.update({k: None if v is None else float(v) for k, v in facts["outlook"]})
        session.marks.update({k: tuple(v) for k, v in facts["marks"].items()})
        bounds = unpack_bounds(shelf.tree(shelf.engine))
        if _are_about(bounds, session.query.network):
            session.learn_bounds(bounds)
        session.turn = int(facts["turn"]), float(facts["turn_began"])
        for note in facts["notes"]:
            session.note(note)
    except (ValueError, TypeError, KeyError) as error:
        shelf.refuse(f"snapshot: {error}")
        return 0.0
    return seconds


def _are_about(bounds: NetworkBounds, network: Network) -> bool:
    """Whether bounds of a tree, which may split a rewritten network, are of this one's nodes."""
    fed = bounds.activations.keys() == set(network.pre_activations)
    return fed and len(bounds.values) == len(network.nodes)


def keeper(session: Session, engine: str, fixed: Arrays) -> Keeper | None:
    """Keeps an engine's search, with arrays that do not change; `None` where nothing is kept."""
    file = session.shelf.file
    return None if file is None else Keeper(file, session, engine, fixed)


@dataclass(eq=False)
class Keeper:
    """Writes one engine's search to disk, with what the query knows, and other trees, beside it.

    A snapshot that cannot be written (a full disk) is a note; the search goes on.
    """

    file: SnapshotFile
    session: Session
    engine: str
    fixed: Arrays

    @property
    def due(self) -> bool:
        """See `TreeKeeper`."""
        return self.file.due

    def keep(self, arrays: Arrays) -> None:
        """See `TreeKeeper`."""
        try:
            trees = self.session.shelf.beside(self.engine, {**arrays, **self.fixed})
            self.file.save(Snapshot(self._facts(), {**trees, **self._known()}))
        except StoreError as error:
            self.session.note(str(error))

    def _facts(self) -> dict[str, Any]:
        session = self.session
        others = {k: v for k, v in session.engine_seconds.items() if k != self.engine}
        spent = max(0.0, session.seconds - sum(others.values()))
        return {
            "engine": self.engine,
            "seconds": session.seconds,
            "engine_seconds": {**others, self.engine: spent},
            "part_seconds": dict(session.part_seconds),
            "counts": dict(session.counts),
            "outlook": [[k, v if v is None else str(v)] for k, v in session.outlook.items()],
            "marks": {name: list(marks) for name, marks in session.marks.items()},
            "turn": session.turn[0],
            "turn_began": session.turn[1],
            "notes": list(session.notes),
            "history": [_finite(asdict(event)) for event in session.history],
            "lower_engine": session.bracket.lower_engine,
            "upper_engine": session.bracket.upper_engine,
        }

    def _known(self) -> dict[str, NDArray[np.generic]]:
        rows, clauses = self.session.proofs
        witness = self.session.bracket.witness
        point = {} if witness is None else {"session_point": witness.input}
        return {"session_rows": rows, "session_clauses": clauses, **point}


def pack_bounds(bounds: NetworkBounds) -> dict[str, NDArray[np.generic]]:
    """Bounds of every node, and which of them feed activations."""
    arrays: dict[str, NDArray[np.generic]] = {
        "bounded": np.array(sorted(bounds.activations), np.int64),
        "complete": np.array([bounds.complete]),
    }
    for index, interval in bounds.activations.items():
        arrays[f"feed_lower_{index}"] = np.asarray(interval.lower.numpy())
        arrays[f"feed_upper_{index}"] = np.asarray(interval.upper.numpy())
    for index, interval in enumerate(bounds.values):
        arrays[f"value_lower_{index}"] = np.asarray(interval.lower.numpy())
        arrays[f"value_upper_{index}"] = np.asarray(interval.upper.numpy())
    return arrays


def question(query: Query, options: object) -> NDArray[np.uint8]:
    """Digest of what a search rests on beside its bounds: network, region, property, options."""
    whole = hashlib.sha256()
    for part in (query.network.digest, query.region, query.prop, options):
        _digest(part, whole.update)
    return np.frombuffer(whole.digest(), np.uint8)


def _digest(value: object, update: Callable[[bytes], None]) -> None:
    """Everything that a value says, of records field by field, each with its length."""
    if is_dataclass(value):
        for field in fields(value):
            update(field.name.encode() + b":")
            _digest(getattr(value, field.name), update)
        return
    array = value if isinstance(value, np.ndarray) else None
    head = repr(value) if array is None else f"{array.dtype}{array.shape}"
    body = b"" if array is None else np.ascontiguousarray(array).tobytes()
    update(f"{len(head)},{len(body)};{head}".encode() + body)


def unpack_bounds(arrays: Arrays) -> NetworkBounds:
    """The bounds from `pack_bounds`.

    Raises:
        ValueError: an array is missing.
    """
    try:
        feeds = {int(i): _interval(arrays, f"feed_{{}}_{i}") for i in arrays["bounded"]}
        count = sum(name.startswith("value_lower_") for name in arrays)
        values = [_interval(arrays, f"value_{{}}_{i}") for i in range(count)]
        return NetworkBounds(feeds, values, complete=bool(arrays["complete"][0]))
    except KeyError as error:
        raise ValueError(f"the snapshot lacks {error}") from None


def _interval(arrays: Arrays, name: str) -> Interval:
    lower, upper = (np.array(arrays[name.format(side)]) for side in ("lower", "upper"))
    return Interval(torch.from_numpy(lower), torch.from_numpy(upper))


def _event(seconds: str, engine: str, lower: str, upper: str) -> BracketEvent:
    return BracketEvent(float(seconds), engine, float(lower), float(upper))


def _finite(event: dict[str, Any]) -> dict[str, Any]:
    """Strict JSON has no infinities: they travel as text, which `float` reads."""
    return {k: str(v) if isinstance(v, float) else v for k, v in event.items()}
