"""Least distances of one image share their witnesses, forwards and backwards."""

from __future__ import annotations

import dataclasses
import math
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from closegap.attacks.activation.nearest import Nearest
from closegap.attacks.minimal.settle import Settling
from closegap.core.budget import Budget
from closegap.core.errors import SolverError, SoundnessError
from closegap.core.tolerance import Tolerance
from closegap.data import fit_to_network, load_data, select
from closegap.evaluate import distances
from closegap.evaluate.distance_records import Asked, nearer
from closegap.evaluate.distances import Distance, DistancePlan, measure, plan_distances
from closegap.frontend import load
from closegap.runtime.cache import replayer
from closegap.specs.distance import DistanceQuery
from closegap.store import DistanceRecord, RunStore
from closegap.strategy.bracketing import Bracketing
from closegap.strategy.distance import DistanceResult, minimise_distance
from closegap.strategy.starts import counterexamples, settled


@pytest.fixture
def plan() -> DistancePlan:
    """Two images of digits that the network takes for what they are."""
    network = load(Path(str(files("closegap") / "demo" / "digits_mlp.onnx")))
    data = fit_to_network(select(load_data("digits"), limit=20), network.input_shape)
    right = replayer(network).outputs_float32(data.images).argmax(axis=1) == data.labels
    chosen = select(data, indices=data.indices[right][:2].tolist())
    return plan_distances(network, chosen, [], timeout=3.0)


def asked(plan: DistancePlan, *names: str) -> DistancePlan:
    return dataclasses.replace(plan, distances=tuple(Distance(name) for name in names))


def only(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Nobody but the queries of one distance has any time."""

    def hurried(query: DistanceQuery, **options: Any) -> DistanceResult:
        mine = query.objective.name == name
        return minimise_distance(query, **{**options, "timeout": 3.0 if mine else 0.0})

    monkeypatch.setattr(distances, "minimise_distance", hurried)


def query_of(plan: DistancePlan, record: DistanceRecord) -> DistanceQuery:
    place = plan.data.indices.tolist().index(record.index)
    image = np.asarray(plan.data.images[place], dtype=np.float32)
    return Distance(record.distance).query(plan.network, image, record.label)


def test_later_distances_begin_at_the_witnesses_of_earlier_ones(
    plan: DistancePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    only(monkeypatch, "l1")
    records = list(measure(asked(plan, "l1", "l0", "l1+tv")))
    assert [record.distance for record in records] == ["l1", "l0", "l1+tv"] * 2
    for first, *later in (records[:3], records[3:]):
        assert first.pictures is not None
        for record in later:
            query = query_of(plan, record)
            assert record.pictures is not None and math.isfinite(record.upper)
            assert record.upper == query.distance(record.pictures.witness)
            assert record.upper <= query.distance(first.pictures.witness)


def test_earlier_distances_get_nearer_witnesses_of_later_ones(
    plan: DistancePlan, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    only(monkeypatch, "l1")
    late = asked(plan, "linf", "l1")
    with RunStore.create_or_resume(tmp_path / "run.db", late.header) as store:
        records = list(measure(late, store))
        kept = {record.key: record for record in store.distances()}
        again = list(measure(late, store))
    assert [r.distance for r in records] == ["linf", "l1", "linf"] * 2
    assert [r.key for r in again] == [r.key for r in kept.values()] and len(kept) == 4
    for before, source, after in (records[:3], records[3:]):
        assert before.key == after.key
        assert before.upper == math.inf and before.pictures is None
        assert before.detail.startswith("no counterexample was found, and none is excluded")
        assert after.upper <= query_of(plan, after).distance(source.pictures.witness)
        assert after.upper == query_of(plan, after).distance(after.pictures.witness)
        assert after.history[-1].engine == "a witness of l1"
        assert after.detail.startswith("nearer by a witness of l1")
        assert after.target is not None and after.metrics["pixels"] > 0
        assert kept[after.key].upper == after.upper
        assert np.array_equal(kept[after.key].pictures.witness, after.pictures.witness)


def test_what_a_store_holds_of_an_image_serves_its_other_distances(
    plan: DistancePlan, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    only(monkeypatch, "l1")
    with RunStore.create_or_resume(tmp_path / "run.db", plan.header) as store:
        held = list(measure(asked(plan, "l1"), store))
        records = list(measure(asked(plan, "l2"), store))
    for first, record in zip(held, records, strict=True):
        assert first.index == record.index and first.pictures is not None
        assert record.upper <= query_of(plan, record).distance(first.pictures.witness)


def test_a_stored_distance_without_a_witness_gets_one_that_was_found_since(
    plan: DistancePlan, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    only(monkeypatch, "l1")
    with RunStore.create_or_resume(tmp_path / "run.db", plan.header) as store:
        assert all(r.upper == math.inf for r in measure(asked(plan, "l2"), store))
        list(measure(asked(plan, "l1"), store))
        again = list(measure(asked(plan, "l2"), store))
    assert all(r.upper < math.inf and "a witness of l1" in r.detail for r in again)


def test_no_witness_of_an_image_is_nearer_than_another_distance_says(plan: DistancePlan) -> None:
    short = dataclasses.replace(plan, header=dataclasses.replace(plan.header, timeout=0.5))
    last = {record.key: record for record in measure(asked(short, "l2", "l1", "linf"))}
    for record in last.values():
        query = query_of(plan, record)
        for other in last.values():
            if other.index == record.index and other.pictures is not None:
                assert record.upper <= query.distance(other.pictures.witness)


def test_shared_witnesses_are_settled_before_they_count(
    plan: DistancePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    handed: list[tuple[float, float]] = []

    def told(query: DistanceQuery, known: Nearest, budget: Budget) -> tuple[Nearest, str]:
        found, note = settled(query, known, budget)
        handed.append((known.distance, found.distance))
        return found, note

    only(monkeypatch, "l1")
    monkeypatch.setattr(distances, "settled", told)
    monkeypatch.setattr(distances, "_SETTLE_SHARE", 1.0)  # on a busy machine, too
    records = list(measure(asked(plan, "linf", "l1")))
    last = [r for r in records if r.distance == "linf" and r.upper < math.inf]
    assert [r.upper for r in last] == [after for _, after in handed] and len(last) == 2
    assert all(after < 0.98 * before for before, after in handed)
    for record in last:
        query = query_of(plan, record)
        assert record.pictures is not None
        witness = replayer(query.network).witness(query.anywhere(), record.pictures.witness)
        assert witness is not None and witness.breaks
        assert record.history[-1].seconds == record.seconds > 0


def test_a_witness_a_little_farther_may_settle_nearer(
    plan: DistancePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The boundary is all but reached from one side; another distance's witness is at it."""
    short = dataclasses.replace(
        plan, data=select(plan.data, indices=plan.data.indices[:1].tolist())
    )
    record = next(measure(asked(short, "l1")))
    query = query_of(plan, record)
    assert record.pictures is not None
    best = record.pictures.witness.astype(np.float64)

    def beyond(share: float) -> NDArray[np.float32]:
        return np.clip(query.image + share * (best - query.image), 0, 1).astype(np.float32)

    def told(of: DistanceQuery, **_: Any) -> DistanceResult:
        point = beyond(1.02 if of.objective.name == "l1" else 1.04)
        return DistanceResult(0.0, of.distance(point), point, 0.0, 1.0, seen=(point,))

    monkeypatch.setattr(distances, "minimise_distance", told)
    monkeypatch.setattr(distances, "_SETTLE_SHARE", 1.0)
    first, _, after = measure(asked(short, "l1", "linf"))
    assert first.key == after.key and first.upper == query.distance(beyond(1.02))
    assert after.upper < 1.001 * record.upper < first.upper < query.distance(beyond(1.04))


def test_settling_that_fails_leaves_the_witness_as_it_came(
    plan: DistancePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise SolverError("no answer")

    only(monkeypatch, "l1")
    monkeypatch.setattr(Settling, "run", broken)
    monkeypatch.setattr(Bracketing, "settle", lambda _: None)
    monkeypatch.setattr(Settling, "each", lambda _self, _query, known, *_: tuple(known))
    _, source, after, *_ = measure(asked(plan, "l2", "l1"))
    assert source.pictures is not None
    assert after.upper <= query_of(plan, after).distance(source.pictures.witness)
    assert "settling failed: no answer" in after.detail


def test_a_witness_within_what_was_proved_is_no_answer(
    plan: DistancePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    only(monkeypatch, "l1")
    record = next(measure(asked(plan, "l1")))
    query = query_of(plan, record)
    assert record.pictures is not None
    (found,) = counterexamples(query, [record.pictures.witness], 1)
    question = Asked(record.key, record.index, "l1", {}, query, Tolerance())
    proved = dataclasses.replace(record, lower=record.upper + 1, upper=record.upper + 2)
    with pytest.raises(SoundnessError, match="was proved within"):
        nearer(proved, question, found, "l2")
    wide = dataclasses.replace(record, lower=0.0, upper=record.upper + 2)
    assert nearer(wide, question, found, "l2").upper == record.upper
