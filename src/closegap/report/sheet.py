"""One image under every distance on one sheet: clean image, witness, change, and what they show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from closegap.report.lettering import LINE, Line, lettered
from closegap.report.pictures import enlarged
from closegap.report.sections.nearness import METRICS, ROUNDING, distance_name
from closegap.report.wording import number
from closegap.store.distances import DistanceRecord

__all__ = ["Pixels", "sheet"]

#: `[height, width, channels]`, one channel or three.
Pixels: TypeAlias = NDArray[np.uint8]

#: Pixels between the pictures of a sheet, about how wide one of them is, and the least paper.
_GAP, _PIXELS, _LEAST_WIDTH = 6, 168, 530


def sheet(records: Sequence[DistanceRecord], drawn: Sequence[Sequence[Pixels]]) -> Pixels:
    """A row for each distance on white paper, under lines that say which one and what was found.

    Args:
        records: of one image, at least one of them drawn.
        drawn: of each record clean image, witness and change; empty where nothing was found.
    """
    height, width = next(row for row in drawn if row)[0].shape[:2]
    times = max(1, _PIXELS // max(height, width))
    tall, wide = height * times, width * times
    lines = [Line(_title(records[0], drawn), _GAP, _GAP, strong=True)]
    places: list[tuple[int, int, Pixels]] = []
    top = 2 * _GAP + LINE
    for record, row in zip(records, drawn, strict=True):
        for number_, text in enumerate(_said(record)):
            lines.append(Line(text, _GAP, top, strong=not number_))
            top += LINE
        places += ((top + _GAP, _GAP + (wide + _GAP) * j, picture) for j, picture in enumerate(row))
        top += (tall + 3 * _GAP) if row else 2 * _GAP
    paper = lettered(top, max(_LEAST_WIDTH, _GAP + 3 * (wide + _GAP)), lines)
    for at, left, picture in places:
        paper[at : at + tall, left : left + wide] = enlarged(picture, times)
    return paper


def _title(record: DistanceRecord, drawn: Sequence[Sequence[Pixels]]) -> str:
    grey = any(row and row[0].shape[2] == 1 for row in drawn)
    colours = "purple darker, orange brighter" if grey else "grey none, full colour the largest"
    return f"Image {record.index}, class {record.label}: clean, witness, change ({colours})"


def _said(record: DistanceRecord) -> Iterator[str]:
    """What stands above a row."""
    reached = "" if record.target is None else f" → class {record.target}"
    yield f"{distance_name(record)}{reached}"
    if record.none_exists:
        yield "proved: no input in [0, 1] loses the label"
        return
    said = [f"between {number(record.lower)} and {number(record.upper)}, {record.state}"]
    if record.pictures is None:
        yield f"{said[0]}; no witness was found"
        return
    if record.rounding is not None:
        said.append(f"as an 8-bit picture it {ROUNDING[record.rounding]}")
    yield "; ".join(said)
    yield "; ".join(_measured(record))


def _measured(record: DistanceRecord) -> Iterator[str]:
    for name, heading in METRICS.items():
        if name in record.metrics:
            what, _, unit = heading.partition(", ")
            yield f"{what} {number(record.metrics[name], 3)} {unit}".rstrip()
