"""Nearest counterexamples: the same image under every distance, side by side."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from jaxtyping import Float
from markupsafe import Markup

from closegap.report.figures.spark import bracket_spark, draw_spark
from closegap.report.options import ReportOptions
from closegap.report.panel import Panel, panel
from closegap.report.pictures import DIVERGING, brightness, change, layout, shade
from closegap.report.sections.base import SectionView
from closegap.report.sections.nearness import METRICS, ROUNDING, distance_name
from closegap.report.wording import class_name, number, seconds
from closegap.store.distances import DistanceRecord
from closegap.store.records import RunHeader

__all__ = ["NearestCard", "NearestRow", "nearest"]


@dataclass(frozen=True)
class NearestRow:
    """One distance of one image.

    Attributes:
        name: of the distance.
        reached: the class found.
        panels: witness and change, or empty.
        spark: the bracket over time, an `<svg>`, or empty.
        facts: name and value.
        detail: notes.
    """

    name: str
    reached: str
    panels: tuple[Panel, ...]
    spark: Markup
    facts: tuple[tuple[str, str], ...]
    detail: str


@dataclass(frozen=True)
class NearestCard:
    """One image: its clean picture, and a row for each distance."""

    title: str
    clean: Panel | None
    rows: tuple[NearestRow, ...]

    @property
    def size(self) -> int:
        """Bytes of its pictures in the page."""
        shown = [held for row in self.rows for held in row.panels]
        return sum(len(held.source) for held in shown) + (
            len(self.clean.source) if self.clean else 0
        )


def nearest(
    header: RunHeader, records: Sequence[DistanceRecord], options: ReportOptions
) -> SectionView | None:
    """A card for each image, as many as the options allow."""
    if not records:
        return None
    groups = [tuple(held) for _, held in groupby(records, key=lambda record: record.index)]
    cards = tuple(_within(options, header, groups))
    return SectionView(
        title="Nearest counterexamples",
        template="nearest.html.j2",
        lead=(
            "The nearest input found that loses its label, under each distance, exactly as it was "
            "replayed on the ONNX file; beside it what is proved: nothing nearer than the lower "
            "end of the bracket loses the label."
        ),
        context={
            "cards": cards,
            "images": len(groups),
            "grey": _grey(records),
            "scale_colours": ["#{:02x}{:02x}{:02x}".format(*c) for c in DIVERGING],
        },
    )


def _within(
    options: ReportOptions, header: RunHeader, groups: Sequence[tuple[DistanceRecord, ...]]
) -> Iterator[NearestCard]:
    size = 0
    for made, records in enumerate(groups):
        if made == options.gallery or size > options.gallery_bytes:
            return
        card = _card(records, header)
        size += card.size
        yield card


def _grey(records: Sequence[DistanceRecord]) -> bool:
    """Whether changes are drawn in signed colours."""
    shown = (_clean(record) for record in records)
    return any(picture is not None and picture.shape[2] == 1 for picture in shown)


def _clean(record: DistanceRecord) -> Float[np.ndarray, "..."] | None:
    """The clean image as a picture, where there is one."""
    if record.pictures is None:
        return None
    return layout(record.pictures.clean, channels_last=record.channels_last)


def _card(records: Sequence[DistanceRecord], header: RunHeader) -> NearestCard:
    first = records[0]
    clean = None
    for record in records:
        picture = _clean(record)
        if picture is not None:
            clean = panel("clean", "the clean image", shade(picture, *brightness(picture)))
            break
    return NearestCard(
        title=f"{first.index}: {class_name(first.label, header)}",
        clean=clean,
        rows=tuple(_row(record, header) for record in records),
    )


def _row(record: DistanceRecord, header: RunHeader) -> NearestRow:
    spark = bracket_spark(record.history, record.seconds)
    reached = class_name(None if record.target is None else str(record.target), header)
    return NearestRow(
        name=distance_name(record),
        reached=reached,
        panels=_panels(record),
        spark=Markup() if spark is None else draw_spark(spark),
        facts=tuple(_facts(record)),
        detail=record.detail,
    )


def _facts(record: DistanceRecord) -> Iterator[tuple[str, str]]:
    if record.none_exists:
        yield "proved", "none exists: all of [0, 1] keeps the label"
    else:
        ends = f"[{number(record.lower)}, {number(record.upper)}]"
        yield f"bracket, {record.state}", ends
    if math.isfinite(record.upper) and record.upper > 0 and not record.closed:
        yield "proved share", f"{number(100 * record.lower / record.upper, 3)} %"
    yield "time", seconds(record.seconds)
    if record.rounding is not None:
        yield "as an 8-bit picture", ROUNDING[record.rounding]
    for name, heading in METRICS.items():
        if name in record.metrics:
            yield heading, number(record.metrics[name])
    for name, many in record.counts.items():
        yield name, f"{many}"


def _panels(record: DistanceRecord) -> tuple[Panel, ...]:
    clean, pictures = _clean(record), record.pictures
    if clean is None or pictures is None:
        return ()
    witness = layout(pictures.witness, channels_last=record.channels_last)
    if witness is None:
        return ()
    shown = panel("witness", "the witness", shade(witness, *brightness(clean, witness)))
    scale = _scale(clean, witness)
    if scale == 0.0:
        return (shown,)
    caption = f"change, ±{number(scale, 3)}"
    return shown, panel(caption, "witness minus clean image", change(clean, witness, scale))


def _scale(clean: Float[np.ndarray, "..."], witness: Float[np.ndarray, "..."]) -> float:
    moved = np.abs(witness.astype(np.float64) - clean.astype(np.float64))
    finite = moved[np.isfinite(moved)]
    return float(finite.max()) if finite.size else 0.0
