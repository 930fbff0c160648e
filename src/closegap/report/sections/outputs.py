"""The network's outputs before and after, as confidences where they are classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from closegap.report.wording import class_name, number
from closegap.store.records import Pictures, Record, RunHeader

__all__ = ["Margins", "OutputRow", "OutputTable", "margin", "output_table", "softmax"]

#: More classes than this do not fit on a card; the likeliest are kept.
_MOST_CLASSES = 10


@dataclass(frozen=True)
class OutputRow:
    """One output. Widths are percentages of a bar, empty where there is no bar."""

    name: str
    is_label: bool
    is_top: bool
    clean: str
    witness: str
    clean_width: str = ""
    witness_width: str = ""


@dataclass(frozen=True)
class Margins:
    """The label's output minus the best other one; negative iff another class wins.

    Attributes:
        clean: at the clean input, in onnxruntime.
        float32: at the witness, in onnxruntime.
        float64: at the witness, in float64.
    """

    clean: float
    float32: float
    float64: float


@dataclass(frozen=True)
class OutputTable:
    """The outputs of one witness.

    Attributes:
        confidences: the rows are softmax probabilities; otherwise raw outputs.
        rows: one an output.
        left_out: how many outputs are not shown.
        margins: of the label, or `None` where there is none.
    """

    confidences: bool
    rows: tuple[OutputRow, ...]
    left_out: int
    margins: Margins | None


def softmax(outputs: Float[np.ndarray, "C"]) -> Float[np.ndarray, "C"]:
    """Probabilities, in float64, shifted so that nothing overflows."""
    shifted = outputs.astype(np.float64) - float(outputs.max())
    weights = np.exp(shifted)
    return np.asarray(weights / weights.sum())


def margin(outputs: Float[np.ndarray, "C"], label: int) -> float:
    """`f_label - max f_other`, in float64: negative iff another class wins."""
    others = np.delete(outputs.astype(np.float64), label)
    return float(np.float64(outputs[label]) - others.max())


def output_table(record: Record, pictures: Pictures, header: RunHeader) -> OutputTable:
    """Rows for the classes (the likeliest, and the label), or for the raw outputs."""
    clean, witness = pictures.clean_outputs.ravel(), pictures.witness_outputs.ravel()
    exact = pictures.witness_outputs_float64.ravel()
    label = record.label
    classes = label is not None and len(clean) > max(1, label)
    if label is None or not classes or not np.isfinite(np.concatenate([clean, witness])).all():
        kept = range(min(len(clean), _MOST_CLASSES))
        rows = [
            OutputRow(f"y{i}", False, False, number(float(clean[i])), number(float(witness[i])))
            for i in kept
        ]
        return OutputTable(False, tuple(rows), len(clean) - len(rows), None)
    before, after = softmax(clean), softmax(witness)
    rows = [
        OutputRow(
            name=class_name(c, header),
            is_label=c == label,
            is_top=c == int(witness.argmax()),
            clean=_percent(before[c]),
            witness=_percent(after[c]),
            clean_width=f"{100 * before[c]:.2f}%",
            witness_width=f"{100 * after[c]:.2f}%",
        )
        for c in _likeliest(before, after, label)
    ]
    return OutputTable(
        confidences=True,
        rows=tuple(rows),
        left_out=len(clean) - len(rows),
        margins=Margins(margin(clean, label), margin(witness, label), margin(exact, label)),
    )


def _likeliest(
    before: Float[np.ndarray, "C"], after: Float[np.ndarray, "C"], label: int
) -> list[int]:
    order = np.argsort(-np.maximum(before, after), kind="stable").tolist()
    kept = [label, *(c for c in order if c != label)][:_MOST_CLASSES]
    return sorted(kept)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
