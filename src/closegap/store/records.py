"""What is kept of a run: its header, and one record for each finished query."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from closegap.core.verdict import Reason, Verdict

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["BracketEvent", "Pictures", "Record", "RunHeader"]


@dataclass(frozen=True)
class BracketEvent:
    """The bracket just after one engine improved it; `seconds` since the query began."""

    seconds: float
    engine: str
    lower: float
    upper: float


@dataclass(frozen=True, eq=False)
class Pictures:
    """What a falsified image's page shows.

    Attributes:
        clean: float32, the input the query started from, in the network's input shape (C, H, W),
            (H, W, C) or flat.
        witness: float32, same shape, exactly as replayed.
        clean_outputs: float32 `[C]`, onnxruntime's outputs at `clean`.
        witness_outputs: float32 `[C]`, onnxruntime's outputs at `witness`.
        witness_outputs_float64: float64 `[C]`, the same network evaluated in float64.
    """

    clean: NDArray[np.float32]
    witness: NDArray[np.float32]
    clean_outputs: NDArray[np.float32]
    witness_outputs: NDArray[np.float32]
    witness_outputs_float64: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Record:
    """One finished query.

    Attributes:
        key: unique in its run: the digest of (model, input, query, engine settings).
        index: position in the data set, or in the list of properties.
        name: of the property file, or empty for images.
        label: true class, or `None` for properties.
        target: the clause that the witness breaks, or the one that stayed open or was hardest.
        verdict: derived from the bracket.
        reason: why it is unknown, else `None`.
        detail: the reason in words and what to try, and any note (a solver that was missing).
        lower: proved lower end of the bracket (least margin).
        upper: attained upper end.
        engine: that decided, or that improved the bracket last.
        seconds: wall-clock of the whole query.
        engine_seconds: wall-clock by engine, in the order they ran.
        history: every improvement of the bracket.
        counts: nodes, leaves, depth, ... by name.
        pictures: for falsified queries.
        part_seconds: within engines, as `engine.part`.
    """

    key: str
    index: int
    name: str
    label: int | None
    target: str
    verdict: Verdict
    reason: Reason | None
    detail: str
    lower: float
    upper: float
    engine: str
    seconds: float
    engine_seconds: dict[str, float] = field(default_factory=dict)
    history: tuple[BracketEvent, ...] = ()
    counts: dict[str, int] = field(default_factory=dict)
    pictures: Pictures | None = None
    part_seconds: dict[str, float] = field(default_factory=dict)

    def row(self) -> dict[str, object]:
        """The JSON row: strict JSON, so infinite ends are `None`; no arrays."""
        return {
            "index": self.index,
            "name": self.name,
            "label": self.label,
            "target": self.target,
            "verdict": str(self.verdict),
            "reason": None if self.reason is None else str(self.reason),
            "detail": self.detail,
            "lower": self.lower if math.isfinite(self.lower) else None,
            "upper": self.upper if math.isfinite(self.upper) else None,
            "engine": self.engine,
            "seconds": round(self.seconds, 6),
            "engine_seconds": {k: round(v, 6) for k, v in self.engine_seconds.items()},
            "part_seconds": {k: round(v, 6) for k, v in self.part_seconds.items()},
            "counts": self.counts,
        }


@dataclass(frozen=True)
class RunHeader:
    """What a run was asked to do, and where it ran: its provenance.

    Attributes:
        kind: `"evaluate"`, `"instances"` or `"distances"`.
        model: path as given.
        model_digest: SHA-256 of the uncompressed ONNX file (empty for `"instances"`).
        data: name or path of the data set or instance list.
        data_digest: SHA-256 of its content.
        eps: radius, or `None`.
        norm: `"inf"`, `"1"`, `"2"`, or empty.
        timeout: seconds a query.
        engines: names in order.
        settings: every other option that can change an answer, by name (JSON values).
        seed: of every random choice.
        command: the command line that began the run.
        versions: closegap, python, numpy, torch, onnxruntime and solvers.
        machine: processor, cores, memory, device.
        started: ISO 8601, UTC.
        total: how many queries the run has.
        class_names: names of the classes, or empty.
    """

    kind: str
    model: str
    model_digest: str
    data: str
    data_digest: str
    eps: float | None
    norm: str
    timeout: float
    engines: tuple[str, ...]
    settings: dict[str, object]
    seed: int
    command: str
    versions: dict[str, str]
    machine: dict[str, str]
    started: str
    total: int
    class_names: tuple[str, ...] = ()
