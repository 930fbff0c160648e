"""Every falsified query: where it started, the witness, the difference, and the confidences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from closegap.core.verdict import Verdict
from closegap.report.options import ReportOptions
from closegap.report.panel import Panel, panel
from closegap.report.pictures import DIVERGING, brightness, difference, layout, shade
from closegap.report.sections.base import SectionView
from closegap.report.sections.outputs import OutputTable, output_table
from closegap.report.summary import misclassified
from closegap.report.wording import class_name, number, seconds, signed
from closegap.store.records import Pictures, Record, RunHeader

__all__ = ["Card", "witnesses"]

#: An input that is no picture is a table; of long ones the entries that changed most.
_MOST_VALUES = 40


@dataclass(frozen=True)
class Card:
    """One falsified query.

    Attributes:
        position: of its record, so that the table can find it.
        panels: pictures, or empty when the input is no picture.
        values: rows (entry, start, witness, difference), or empty when it is one.
        values_left_out: how many entries `values` does not show.
        note: what the pictures cannot say.
        facts: name and value, under the pictures.
    """

    position: int
    title: str
    panels: tuple[Panel, ...]
    values: tuple[tuple[str, str, str, str], ...]
    values_left_out: int
    note: str
    outputs: OutputTable
    facts: tuple[tuple[str, str], ...]

    @property
    def size(self) -> int:
        """Bytes of its pictures in the page."""
        return sum(len(shown.source) for shown in self.panels)


def witnesses(
    header: RunHeader, records: Sequence[Record], options: ReportOptions
) -> SectionView | None:
    """Cards of the falsified queries, the first ones of the run, as many as the options allow."""
    falsified = [(i, r) for i, r in enumerate(records) if r.verdict is Verdict.FALSIFIED]
    if not falsified:
        return None
    shown = tuple(_within(options, header, falsified))
    images = header.kind == "evaluate"
    return SectionView(
        title="Witnesses",
        template="witnesses.html.j2",
        lead=(
            "Inputs inside the region that break the property, exactly as they were replayed on "
            "the ONNX file."
        ),
        context={
            "cards": shown,
            "falsified": len(falsified),
            "start": "clean" if images else "start",
            "scale_colours": ["#{:02x}{:02x}{:02x}".format(*c) for c in DIVERGING],
            "pictured": any(card.panels for card in shown),
        },
    )


def _within(
    options: ReportOptions, header: RunHeader, falsified: list[tuple[int, Record]]
) -> Iterator[Card]:
    size = 0
    made = 0
    for position, record in falsified:
        if record.pictures is None:
            continue
        if made == options.gallery or size > options.gallery_bytes:
            return
        card = _card(position, record, record.pictures, header)
        size += card.size
        made += 1
        yield card


def _card(position: int, record: Record, pictures: Pictures, header: RunHeader) -> Card:
    still = np.array_equal(pictures.clean, pictures.witness)
    panels = _panels(pictures, header, still=still)
    values = () if panels else _values(pictures)
    outputs = output_table(record, pictures, header)
    note = ""
    if misclassified(record):
        note = "No change is needed: the clean image already gets another label."
    found = f"{record.engine or 'unnamed engine'}, {seconds(record.seconds)}"
    return Card(
        position=position,
        title=_title(record, header),
        panels=panels,
        values=values[:_MOST_VALUES],
        values_left_out=max(0, len(values) - _MOST_VALUES),
        note=note,
        outputs=outputs,
        facts=(*_margins(record, outputs, still=still), ("found by", found)),
    )


def _margins(record: Record, outputs: OutputTable, *, still: bool) -> tuple[tuple[str, str], ...]:
    """At the clean input and, in both precisions, at the witness; one number for a property."""
    if outputs.margins is None:
        return (("margin", signed(record.upper)),)
    before = () if still else (("clean margin", signed(outputs.margins.clean)),)
    after = (
        ("margin, float32", signed(outputs.margins.float32)),
        ("margin, float64", signed(outputs.margins.float64)),
    )
    return (*before, *after)


def _title(record: Record, header: RunHeader) -> str:
    if record.label is None:
        name = record.name.removesuffix(".gz").removesuffix(".vnnlib")
        return f"{record.index}: {name}" if name else str(record.index)
    reached = class_name(record.target, header)
    return f"{record.index}: {class_name(record.label, header)} → {reached}"


def _panels(pictures: Pictures, header: RunHeader, *, still: bool) -> tuple[Panel, ...]:
    turned = header.settings.get("layout") == "hwc"
    clean, witness = (layout(a, channels_last=turned) for a in (pictures.clean, pictures.witness))
    if clean is None or witness is None:
        return ()
    low, high = brightness(pictures.clean, pictures.witness)
    start = "clean" if header.kind == "evaluate" else "start"
    spread = "" if (low, high) == (0.0, 1.0) else f", {number(low, 3)} to {number(high, 3)}"
    first = panel(start + spread, "the input the query started from", shade(clean, low, high))
    if still:
        return (first,)
    scale = _scale(pictures, header)
    if scale == 0.0:  # entries that are not finite cannot be subtracted
        return (first, panel("witness", "the witness", shade(witness, low, high)))
    return (
        first,
        panel("witness", "the witness", shade(witness, low, high)),
        panel(
            f"difference, ±{number(scale, 3)}",
            "witness minus start, in signed colours",
            difference(clean, witness, scale),
        ),
    )


def _scale(pictures: Pictures, header: RunHeader) -> float:
    """Full colour of a difference: the radius where it limits each entry, else the largest one."""
    if header.eps and header.norm == "inf":
        return header.eps  # one scale for the whole run, so that cards can be compared
    change = np.abs(pictures.witness.astype(np.float64) - pictures.clean.astype(np.float64))
    finite = change[np.isfinite(change)]
    return float(finite.max()) if finite.size else 0.0


def _values(pictures: Pictures) -> tuple[tuple[str, str, str, str], ...]:
    clean, witness = pictures.clean.ravel(), pictures.witness.ravel()
    change = witness.astype(np.float64) - clean.astype(np.float64)
    order = np.arange(len(change))
    if len(change) > _MOST_VALUES:
        order = np.argsort(-np.abs(np.nan_to_num(change)), kind="stable")
    return tuple(
        (
            str(i),
            number(float(clean[i]), 6),
            number(float(witness[i]), 6),
            signed(float(change[i])),
        )
        for i in order.tolist()
    )
