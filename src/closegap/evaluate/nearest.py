"""One attack of least distance over a data set: what is found is replayed before it counts."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from closegap.attacks.minimal.attack import MinimalAttack, NearestInterrupted
from closegap.attacks.minimal.grid import as_picture
from closegap.core.bracket import Bracket
from closegap.core.budget import Budget
from closegap.core.verdict import Reason, Verdict
from closegap.data import DataSet
from closegap.evaluate.recording import strongest_other
from closegap.graph.network import Network
from closegap.runtime.cache import replayer
from closegap.specs.distance import DistanceQuery
from closegap.specs.layout import Layout, picture_of
from closegap.specs.objectives import make_objective

__all__ = ["NearestImage", "attack_nearest"]

#: Images attacked side by side; their time is shared.
_BATCH = 64
_CLEAN = "clean"


@dataclass(frozen=True, eq=False)
class NearestImage:
    """What an attack of least distance came to on one image.

    Attributes:
        index: of the image in its data set.
        label: the true class.
        norm: in which the distance is; 0 counts pixels.
        bracket: of the margin over all images, with the replayed input that was found; else with
            the clean image.
        seconds: wall-clock; images attacked side by side share theirs.
        distance: to the input that was found, rounded up; 0 where the image is misclassified as it
            is, infinity where nothing was found.
        pixels: how many differ at the input that was found.
        target: the class found.
        rounding: of what was found, as an 8-bit picture: `kept` or `repaired` where it loses the
            label, `lost` where no rounding was found that does.
        reason: why the answer is unknown.
    """

    index: int
    label: int
    norm: float
    bracket: Bracket = field(repr=False)
    seconds: float
    distance: float = math.inf
    pixels: int | None = None
    target: int | None = None
    rounding: str | None = None
    reason: Reason | None = None

    @property
    def broken(self) -> bool:
        """Whether an input that loses the label is known, be it the image itself."""
        return self.bracket.verdict is Verdict.FALSIFIED

    @property
    def verdict(self) -> str:
        """`misclassified`, `falsified` or `unknown`; an attack proves nothing."""
        clean = self.broken and self.bracket.upper_engine == _CLEAN
        return "misclassified" if clean else str(self.bracket.verdict)

    def row(self) -> dict[str, object]:
        """JSON values; without an input that was found, distance, pixels and target are `None`."""
        return {
            "index": self.index,
            "label": self.label,
            "verdict": self.verdict,
            "distance": self.distance if self.broken else None,
            "norm": f"{self.norm:g}",
            "pixels": self.pixels,
            "target": self.target,
            "rounding": self.rounding,
            "reason": None if self.reason is None else str(self.reason),
            "seconds": self.seconds,
        }


def attack_nearest(
    network: Network,
    data: DataSet,
    attack: MinimalAttack,
    *,
    timeout: float,
    seed: int = 0,
    layout: Layout | None = None,
) -> Iterator[NearestImage]:
    """Attack images in batches, and yield them in order.

    An image that is misclassified as it is has distance 0 and is not attacked.

    Args:
        network: in whose input shape the images are.
        data: images and labels.
        attack: in the norm that is asked for.
        timeout: seconds an image; a batch has the sum.
        seed: of every random choice.
        layout: of flat inputs, which entries are one pixel; `None` for what the network tells.

    Raises:
        KeyboardInterrupt: after the images under attack, with what was found of them.
    """
    for begin in range(0, len(data), _BATCH):
        rows = range(begin, min(begin + _BATCH, len(data)))
        started = time.monotonic()
        queries = [_query(network, data, row, attack.method.norm, layout) for row in rows]
        brackets = [_replayed(query, query.image, Bracket(), _CLEAN) for query in queries]
        open_ = [n for n, bracket in enumerate(brackets) if bracket.verdict is Verdict.UNKNOWN]
        budget = Budget.of_seconds(timeout * len(rows), seed=seed)
        stopped: NearestInterrupted | None = None
        try:
            found = attack.run_all([queries[n] for n in open_], budget)
        except NearestInterrupted as stop:
            stopped, found = stop, stop.nearest
        for n, nearest in zip(open_, found, strict=True):
            if nearest.point is not None:
                brackets[n] = _replayed(queries[n], nearest.point, brackets[n], attack.name)
        reason = Reason.TIME if budget.expired else Reason.INCOMPLETE
        reason = reason if stopped is None else Reason.INTERRUPTED
        seconds = (time.monotonic() - started) / len(rows)
        for row, query, bracket in zip(rows, queries, brackets, strict=True):
            answer = NearestImage(
                int(data.indices[row]), query.label, attack.method.norm, bracket, seconds
            )
            yield _measured(answer, query) if answer.broken else replace(answer, reason=reason)
        if stopped is not None:
            raise stopped


def _query(
    network: Network, data: DataSet, row: int, norm: float, layout: Layout | None
) -> DistanceQuery:
    picture, label = np.asarray(data.images[row], dtype=np.float32), int(data.labels[row])
    objective = make_objective(f"l{norm:g}", picture, grid=picture_of(network, layout))
    return DistanceQuery(network, picture, label, objective, layout=layout)


def _replayed(
    query: DistanceQuery, point: NDArray[np.float32], bracket: Bracket, engine: str
) -> Bracket:
    """The bracket with this point, wherever it lies."""
    witness = replayer(query.network).witness(query.anywhere(), point)
    return bracket if witness is None else bracket.reduce_upper(witness, engine)


def _measured(answer: NearestImage, query: DistanceQuery) -> NearestImage:
    """With how far the replayed input is, and what it became."""
    witness = answer.bracket.witness
    if witness is None:
        return answer
    point = witness.input.astype(np.float64).reshape(-1)
    changed = make_objective("l0", query.image, grid=query.picture).attained(query.center, point)
    levels, note = as_picture(query, witness.input)
    return replace(
        answer,
        rounding="lost" if levels is None else "repaired" if note else "kept",
        distance=query.distance(witness.input),
        pixels=int(changed),
        target=strongest_other(witness.outputs_float32, query.label),
    )
