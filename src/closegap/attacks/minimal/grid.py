"""Witnesses as 8-bit pictures: rounded to multiples of 1/255, repaired where that loses them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from numpy.typing import NDArray

from closegap.attacks.minimal.attack import replayed
from closegap.attacks.minimal.lanes import Lanes, build_lanes, evaluate, lanes_of, margins
from closegap.runtime.cache import compiled
from closegap.specs.distance import DistanceQuery

__all__ = ["GridPoint", "as_picture", "to_grid"]

_LEVELS = 255
#: Shares of the changed entries that are rounded against the gradient, in one wave of trials.
_SHARES = 32
#: Whole levels that entries may go beyond the rounding.
_FURTHER = (0, 1, 2, 4, 8)


@dataclass(frozen=True, eq=False)
class GridPoint:
    """A point whose changed entries are multiples of 1/255.

    Attributes:
        point: float32, in the network's input shape.
        broken: whether its replay loses the label.
        repaired: whether rounding to the nearest lost it and another rounding was taken.
        note: what happened, for people.
    """

    point: Float32[np.ndarray, "..."]
    broken: bool
    repaired: bool
    note: str


def to_grid(query: DistanceQuery, point: Float[np.ndarray, "..."]) -> GridPoint:
    """Round the entries that differ from the image; unchanged ones stay as they are.

    Where the nearest multiples lose the witness, the entries that lower the margin most are rounded
    the other way: as few of them as do, then by whole levels. Every answer is replayed.

    Args:
        query: that the point is a witness of.
        point: in [0, 1].
    """
    shape, judge = query.network.input_shape, replayed(query)
    clean = query.center
    flat = np.asarray(point, dtype=np.float64).reshape(-1)
    moved = flat != clean
    nearest = _on_grid(np.where(moved, np.rint(flat * _LEVELS), clean * _LEVELS), moved, query)
    if judge(nearest.reshape(shape), query.distance(nearest)):
        return GridPoint(nearest.reshape(shape), True, False, "rounded to the nearest levels")
    network = compiled(query.network, torch.float32)
    lanes = build_lanes(network, [query], 1, _SHARES)
    for further in _FURTHER:
        for trial in _trials(lanes, query, flat, moved, further):
            if judge(trial.reshape(shape), query.distance(trial)):
                levels = "1 level" if further == 0 else f"{further + 1} levels"
                note = f"rounding lost it; repaired, at most {levels} off"
                return GridPoint(trial.reshape(shape), True, True, note)
    return GridPoint(nearest.reshape(shape), False, False, "lost by rounding; no repair found")


def as_picture(
    query: DistanceQuery, witness: Float32[np.ndarray, "..."]
) -> tuple[UInt8[np.ndarray, "..."] | None, str]:
    """A witness as an 8-bit picture that loses the label when it is read back; and a note.

    Every entry is rounded, those of a clean image that lies between the levels too. Where that
    loses what the entries that changed had kept, any entry may be turned.

    Args:
        query: that the point is a witness of.
        witness: in [0, 1].

    Returns:
        the levels, in the witness's shape, `None` where none were found; what happened, for
        people, empty where the nearest levels do.
    """
    for image in (query.image, _read_back(_levels(query.image))):
        found = to_grid(replace(query, image=image), witness)
        levels = _levels(found.point)
        back = _read_back(levels)
        if found.broken and replayed(query)(back, query.distance(back)):
            return levels, found.note if found.repaired else ""
    return None, "as an 8-bit picture it keeps the label"


def _levels(picture: Float32[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
    return np.asarray(np.rint(_LEVELS * picture.astype(np.float64)), dtype=np.uint8)


def _read_back(levels: UInt8[np.ndarray, "..."]) -> Float32[np.ndarray, "..."]:
    return np.asarray(levels / _LEVELS, dtype=np.float32)


def _on_grid(
    levels: NDArray[np.float64], moved: NDArray[np.bool_], query: DistanceQuery
) -> NDArray[np.float32]:
    points = (np.clip(levels, 0, _LEVELS) / _LEVELS).astype(np.float32)
    return np.asarray(np.where(moved, points, query.image.reshape(-1)), dtype=np.float32)


def _trials(
    lanes: Lanes,
    query: DistanceQuery,
    flat: NDArray[np.float64],
    moved: NDArray[np.bool_],
    further: int,
) -> NDArray[np.float32]:
    """Roundings `[M, D]` that the float32 network takes for broken, fewest turned entries first."""
    start = torch.from_numpy(flat.astype(np.float32))[None]
    slope = evaluate(lanes, start).gradient[0].numpy().astype(np.float64)
    near = np.rint(flat * _LEVELS)
    down = np.where(
        slope > 0, np.floor(flat * _LEVELS) - further, np.ceil(flat * _LEVELS) + further
    )
    gain = np.where(moved, slope * (near - down), -np.inf)
    rank = np.argsort(np.argsort(-gain, kind="stable"), kind="stable")
    counts = np.unique(np.linspace(1, max(1, moved.sum()), _SHARES).astype(int))
    turned = rank[None] < counts[:, None]
    trials = _on_grid(np.where(turned, down, near), moved[None], query)
    places = torch.zeros(len(trials), dtype=torch.int64)
    broken = margins(lanes_of(lanes, places), torch.from_numpy(trials)) < 0
    return np.asarray(trials[broken.numpy()])
