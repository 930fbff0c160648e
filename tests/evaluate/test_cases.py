"""Properties of many boxes in little time: a first look proves some, and loses none."""

from __future__ import annotations

import math
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from closegap.core.verdict import Verdict
from closegap.data import fit_to_network, load_data, select
from closegap.evaluate import cases
from closegap.evaluate.cases import first_look
from closegap.evaluate.tasks import PropertyTask
from closegap.evaluate.work import PropertyWork, WorkOptions
from closegap.frontend import load
from closegap.runtime.cache import replayer
from closegap.specs.query import Query, robustness

MLP = Path(str(files("closegap") / "demo" / "digits_mlp.onnx"))
COUNT = 40


@pytest.fixture(scope="module")
def queries() -> list[Query]:
    """Images in balls of which most keep the label."""
    network = load(MLP)
    data = fit_to_network(select(load_data("digits"), limit=2 * COUNT), network.input_shape)
    right = replayer(network).outputs_float32(data.images).argmax(axis=1) == data.labels
    pairs = zip(data.images[right], data.labels[right].tolist(), strict=True)
    return [robustness(network, image, label, 0.02) for image, label in pairs][:COUNT]


def _spec(path: Path, queries: list[Query]) -> Path:
    """All of them as one property: some class beats the label in some ball."""
    lines = [f"(declare-const X_{i} Real)" for i in range(64)]
    lines += [f"(declare-const Y_{i} Real)" for i in range(10)]
    parts = []
    for query in queries:
        ends = query.region.lower.reshape(-1), query.region.upper.reshape(-1)
        box = " ".join(f"(>= X_{i} {a:.17g}) (<= X_{i} {b:.17g})" for i, (a, b) in
                       enumerate(zip(*ends, strict=True)))  # fmt: skip
        label, rival = query.prop.label, (query.prop.label + 1) % 10
        parts.append(f"(and {box} (>= Y_{rival} Y_{label}))")
    path.write_text("\n".join([*lines, f"(assert (or {' '.join(parts)}))"]))
    return path


def _task(spec: Path, seconds: float) -> PropertyTask:
    return PropertyTask("k", 0, "boxes", seconds, str(MLP), load(MLP).digest, str(spec))


def test_a_look_proves_what_is_true_and_keeps_the_rest(queries: list[Query]) -> None:
    wide = [robustness(q.network, q.center, q.prop.label, 0.3) for q in queries[:5]]
    mixed = [*wide[:3], *queries, *wide[3:]]
    look = first_look(mixed, WorkOptions(), 0.9 * len(mixed))
    assert sorted([*look.order, *look.proved]) == list(range(len(mixed)))
    assert len(look.proved) > COUNT / 2
    broken = {0, 1, 2, len(mixed) - 2, len(mixed) - 1}
    assert set(look.order[:5]) == broken
    assert all(r.verdict is Verdict.VERIFIED for r in look.proved.values())


def test_many_boxes_that_hold_are_proved(queries: list[Query], tmp_path: Path) -> None:
    record = PropertyWork(WorkOptions())(_task(_spec(tmp_path / "p.vnnlib", queries), 35.0))
    assert record.verdict == "verified" and 0 < record.lower <= record.upper < math.inf


def test_one_broken_box_among_many_is_found(queries: list[Query], tmp_path: Path) -> None:
    image, label = queries[0].center, queries[0].prop.label
    assert image is not None and label is not None
    wide = robustness(queries[0].network, image, label, 0.5)
    spec = _spec(tmp_path / "p.vnnlib", [*queries, wide])
    record = PropertyWork(WorkOptions())(_task(spec, 10.0))
    assert record.verdict == "falsified" and record.pictures is not None
    outputs = record.pictures.witness_outputs
    assert outputs[(label + 1) % 10] >= outputs[label]


def test_few_cases_and_chosen_engines_are_not_looked_at(
    queries: list[Query], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cases, "_margins", None)  # is not asked
    for options, some, seconds in (
        (WorkOptions(), queries[:3], 1.0),
        (WorkOptions(), queries, 1000.0),
        (WorkOptions(("crown",)), queries, 1.0),
        (WorkOptions(optimum=True), queries, 1.0),
    ):
        look = first_look(some, options, seconds)
        assert look.order == tuple(range(len(some))) and not look.proved


def test_without_time_every_case_stays(queries: list[Query]) -> None:
    look = first_look(queries, WorkOptions(), 0.0)
    assert sorted(look.order) == list(range(len(queries))) and not look.proved
    assert np.isinf(cases._margins(queries[:2], cases.Budget.of_seconds(0.0))).all()
