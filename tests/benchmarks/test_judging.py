"""The benchmarks' judge: the second opinion on witnesses, and what counts as wrong."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from closegap.core.verdict import Reason, Verdict
from closegap.specs.vnnlib import Instance
from closegap.store import Pictures, Record
from closegap.testing.networks import onnx_model
from recheck import holds
from vnncomp import Family, judge

SPEC = """
; X_1 is fixed at a number that float32 does not have
(declare-const X_0 Real) (declare-const X_1 Real) (declare-const Y_0 Real)
(assert (>= X_0 -1.0)) (assert (<= X_0 0.3))
(assert (>= X_1 0.1)) (assert (<= X_1 0.1))
(assert (or (and (<= Y_0 0.25) (>= Y_0 0.2)) (>= (+ Y_0 (* 2.0 X_0)) (- 1.0 0.16))))
"""


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """The network `y = x0`, and the property above, both gzipped."""
    weight = np.array([[1.0], [0.0]])
    node = helper.make_node("MatMul", ["input", "w"], ["output"])
    model, spec = tmp_path / "m.onnx.gz", tmp_path / "s.vnnlib.gz"
    model.write_bytes(gzip.compress(onnx_model([node], {"w": weight}, ["N", 2])))
    spec.write_bytes(gzip.compress(SPEC.encode()))
    return model, spec


def after(value: float, toward: float) -> float:
    """The next float32 number."""
    return float(np.nextafter(np.float32(value), np.float32(toward)))


@pytest.mark.parametrize(
    ("first", "second", "answer"),
    [
        (0.25, 0.1, True),  # 0.1 may be the nearest float32
        (after(0.25, 1), 0.1, False),  # the output is a hair too large
        (0.22, after(0.1, 1), False),  # not the fixed value
        (0.22, after(0.1, 0), False),
        (0.2, 0.1, True),  # the nearest float32 lies above 0.2
        (0.19, 0.1, False),
        (0.27, 0.1, False),
        (0.29, 0.1, True),  # the other branch
        (0.3, 0.1, False),  # the nearest float32 leaves the box
        (after(0.3, 0), 0.1, True),
        (-1.5, 0.1, False),
    ],
)
def test_second_opinion(
    files: tuple[Path, Path], first: float, second: float, answer: bool
) -> None:
    model, spec = files
    assert holds(model, spec, np.array([first, second], np.float32)) is answer


def test_what_counts_as_wrong(files: tuple[Path, Path]) -> None:
    """Contradictions and witnesses that do not hold; an open property is not wrong."""
    records = [
        _record(0, Verdict.FALSIFIED, [0.25, 0.1]),
        _record(1, Verdict.FALSIFIED, [0.26, 0.1]),
        _record(2, Verdict.FALSIFIED, [0.25, 0.1]),
        _record(3, Verdict.VERIFIED),
        _record(4, Verdict.VERIFIED),
        _record(5, Verdict.UNKNOWN),
        _record(6, Verdict.FALSIFIED),
        _record(7, Verdict.FALSIFIED, [0.25, 0.1]),
        replace(_record(8, Verdict.UNKNOWN), reason=Reason.ENGINE_FAILED),
    ]
    published = ("sat", "sat", "unsat", "unsat", "sat", "sat", "sat", "unknown", "unknown")
    instances = tuple(Instance(*files, 1.0) for _ in records)
    result = judge(records, Family(instances, published))
    wrong = [line.split(":")[0] for line in result.complaints]
    assert wrong == ["p1", "p2", "p4", "p6", "p8"]
    assert result.row("family") == ("family", "9", "5", "2", "7", "4", "1", "1", "4.00", "-")


def _record(index: int, verdict: Verdict, witness: list[float] | None = None) -> Record:
    pictures = None
    if witness is not None:
        x = np.array(witness, np.float32)
        pictures = Pictures(x, x, x[:1], x[:1], x[:1].astype(np.float64))
    reason = Reason.TIME if verdict is Verdict.UNKNOWN else None
    return Record(
        key=str(index), index=index, name=f"p{index}", label=None, target="", verdict=verdict,
        reason=reason, detail="", lower=-1.0, upper=1.0, engine="pgd", seconds=float(index),
        pictures=pictures,
    )  # fmt: skip
