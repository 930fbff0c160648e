"""Runs of distance queries to make reports of: linear networks, whose distances are known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from report_runs import make_header

from closegap.store import BracketEvent, DistanceRecord, Pictures, RunHeader

NAMES = ("l2", "l1", "l1+tv")


def make_distance(
    index: int = 0, distance: str = "l1", *, shape: tuple[int, ...] = (1, 8, 8), closed: bool = True
) -> DistanceRecord:
    """Two classes apart at a hyperplane: one pixel moves under l1, all of them under l2."""
    rng = np.random.default_rng(index)
    clean = rng.random(shape, dtype=np.float32) / 2
    move = np.full(shape, 0.02, dtype=np.float32)
    if distance != "l2":
        move = np.zeros(shape, dtype=np.float32)
        move.reshape(-1)[5 + index] = 0.4
    upper = float(np.sqrt((move**2).sum()) if distance == "l2" else np.abs(move).sum())
    lower = upper if closed else upper / 2
    outputs = np.array([1.0, 0.0], dtype=np.float32)
    witness = clean + move
    return DistanceRecord(
        key=f"{distance}-{index}",
        index=index,
        label=0,
        distance=distance,
        options={"kappa": 0.1, "of": "image"} if distance == "l1+tv" else {},
        target=1,
        lower=lower,
        upper=upper,
        tolerance=1e-4,
        seconds=2.0,
        history=(
            BracketEvent(0.004, "starts", 0.0, 3 * upper),
            BracketEvent(0.3, "tree", lower / 2, upper),
            BracketEvent(1.5, "tree", lower, upper),
        ),
        counts={"nodes": 1234},
        part_seconds={"programs": 1.0},
        metrics={"pixels": float((move != 0).sum()), "psnr": 30.0 + index},
        pictures=Pictures(clean, witness, outputs, outputs[::-1], outputs[::-1].astype(np.float64)),
        rounded=np.rint(255 * witness).astype(np.uint8),
    )


def missed(index: int = 9, distance: str = "l2") -> DistanceRecord:
    """No witness was found before the time ended."""
    return DistanceRecord(
        f"missed-{index}", index, 3, distance, {}, None, 0.0, math.inf, 1e-4, 20.0
    )


def nowhere(index: int = 9, distance: str = "l2") -> DistanceRecord:
    """No input of the box loses the label, as was proved."""
    events = (BracketEvent(0.1, "", 0.5, math.inf), BracketEvent(2.0, "tree", math.inf, math.inf))
    return DistanceRecord(
        f"nowhere-{index}", index, 3, distance, {}, None, math.inf, math.inf, 1e-4, 2.0,
        history=events,
    )  # fmt: skip


def misclassified(index: int = 8, distance: str = "l2") -> DistanceRecord:
    """The image itself loses its label."""
    record = make_distance(index, distance)
    assert record.pictures is not None
    pictures = replace(record.pictures, witness=record.pictures.clean)
    return replace(record, lower=0.0, upper=0.0, pictures=pictures, metrics={"pixels": 0.0})


def distance_run(images: int = 4) -> tuple[RunHeader, tuple[DistanceRecord, ...]]:
    """Every distance of some images, one image without a witness last."""
    records = [
        make_distance(index, name, closed=index % 2 == 0)
        for index in range(images)
        for name in NAMES
    ]
    records.append(missed(images))
    header = make_header(
        kind="distances", eps=None, norm="", engines=(), settings={}, total=len(records)
    )
    return header, tuple(records)
