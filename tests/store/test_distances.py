"""Distance queries in a run store: what goes in comes out, beside every older format."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
from _store_compare import same_distance

from closegap.core.errors import StoreError
from closegap.store import BracketEvent, DistanceRecord, Pictures, Record, RunHeader, RunStore

_GOLDEN = {n: Path(__file__).parent / f"golden_format_{n}.sqlite" for n in (1, 2)}


@pytest.fixture
def found(rng: np.random.Generator) -> DistanceRecord:
    shape = (1, 4, 6)
    return DistanceRecord(
        key="d0",
        index=3,
        label=7,
        distance="l1+tv",
        options={"kappa": 0.1, "of": "image"},
        target=2,
        lower=0.125,
        upper=0.5,
        tolerance=1e-4,
        seconds=2.5,
        history=(BracketEvent(1.0, "", 0.0, math.inf), BracketEvent(2.0, "tree", 0.125, 0.5)),
        counts={"nodes": 12},
        part_seconds={"lp": 1.5},
        metrics={"pixels": 3.0, "psnr": 31.5},
        pictures=Pictures(
            clean=rng.random(shape, dtype=np.float32),
            witness=rng.random(shape, dtype=np.float32),
            clean_outputs=rng.random(10, dtype=np.float32),
            witness_outputs=rng.random(10, dtype=np.float32),
            witness_outputs_float64=rng.random(10),
        ),
        rounded=rng.integers(0, 256, shape, dtype=np.uint8),
    )


@pytest.fixture
def missed(found: DistanceRecord) -> DistanceRecord:
    return dataclasses.replace(
        found,
        key="d1",
        distance="l2",
        options={},
        target=None,
        lower=0.0,
        upper=math.inf,
        history=(),
        metrics={},
        pictures=None,
        rounded=None,
    )


def test_distances_come_back_as_they_went_in(
    header: RunHeader, found: DistanceRecord, missed: DistanceRecord, tmp_path: Path
) -> None:
    path = tmp_path / "run.db"
    unrounded = dataclasses.replace(found, key="d2", index=0, rounded=None)
    with RunStore.create_or_resume(path, header) as store:
        assert [store.add_distance(r) for r in (missed, found, unrounded)] == [True] * 3
        assert not store.add_distance(dataclasses.replace(found, seconds=9.0))
    with RunStore.open(path) as store:
        back = list(store.distances())
        light = list(store.distances(pictures=False))
        assert store.distance_keys() == {"d0", "d1", "d2"}
        assert list(store.records()) == []
    assert [r.key for r in back] == ["d2", "d1", "d0"]  # by image, then as kept
    for given, held in zip((unrounded, missed, found), back, strict=True):
        assert same_distance(given, held)
    assert all(r.pictures is None and r.rounded is None for r in light)


def test_a_nearer_witness_takes_a_records_place(
    header: RunHeader, found: DistanceRecord, missed: DistanceRecord, tmp_path: Path
) -> None:
    near = dataclasses.replace(
        found, upper=0.25, rounded=None, history=(BracketEvent(2.5, "l1", 0.125, 0.25),)
    )
    first = dataclasses.replace(missed, pictures=found.pictures, upper=2.0)
    with RunStore.create_or_resume(tmp_path / "run.db", header) as store:
        assert not store.improve_distance(near)  # of which there is none
        for record in (found, missed):
            store.add_distance(record)
        assert store.improve_distance(near) and store.improve_distance(first)
        for worse in (found, near, dataclasses.replace(first, upper=math.inf)):
            assert not store.improve_distance(worse)
        with pytest.raises(ValueError, match="NaN"):
            store.improve_distance(dataclasses.replace(near, upper=math.nan))
        held = {record.key: record for record in store.distances()}
    assert same_distance(held["d0"], near) and same_distance(held["d1"], first)


def test_records_and_distances_lie_side_by_side(
    header: RunHeader, falsified: Record, found: DistanceRecord, tmp_path: Path
) -> None:
    with RunStore.create_or_resume(tmp_path / "run.db", header) as store:
        store.add(falsified)
        store.add_distance(found)
        assert len(store) == 1
        assert store.finished_keys() == {"k0"}


def test_an_older_store_holds_no_distances(tmp_path: Path) -> None:
    copy = tmp_path / "old.sqlite"
    copy.write_bytes(_GOLDEN[1].read_bytes())
    with RunStore.open(copy) as store:
        assert store.distance_keys() == frozenset()
        assert list(store.distances()) == []
        assert len(store) == 2


def test_a_store_of_the_second_format_is_read(tmp_path: Path) -> None:
    copy = tmp_path / "old.sqlite"
    copy.write_bytes(_GOLDEN[2].read_bytes())
    with RunStore.open(copy) as store:
        assert store.header().kind == "distances"
        first, second = store.distances()
    assert (first.distance, first.upper, first.target) == ("l2", math.inf, None)
    assert (second.distance, second.options["kappa"], second.target) == ("l1+tv", 0.1, 2)
    assert (second.lower, second.upper, second.closed) == (0.125, 0.5, False)
    assert second.history[1] == BracketEvent(2.0, "tree", 0.125, 0.5)
    assert second.pictures is not None and second.pictures.witness.shape == (1, 4, 6)
    assert second.rounded is not None and second.rounded.dtype == np.uint8
    assert second.metrics == {"pixels": 3.0, "psnr": 31.5}


def test_nan_is_refused_and_nothing_is_kept(
    header: RunHeader, found: DistanceRecord, tmp_path: Path
) -> None:
    with RunStore.create_or_resume(tmp_path / "run.db", header) as store:
        with pytest.raises(ValueError, match="NaN"):
            store.add_distance(dataclasses.replace(found, lower=math.nan))
        assert store.distance_keys() == frozenset()


def test_a_damaged_value_is_one_line(
    header: RunHeader, found: DistanceRecord, tmp_path: Path
) -> None:
    import sqlite3

    path = tmp_path / "run.db"
    with RunStore.create_or_resume(path, header) as store:
        store.add_distance(found)
    connection = sqlite3.connect(path)
    connection.execute("UPDATE distances SET counts = '[1]'")
    connection.commit()
    connection.close()
    with RunStore.open(path) as store, pytest.raises(StoreError, match="cannot be read"):
        list(store.distances())


def test_rows_are_strict_json(found: DistanceRecord, missed: DistanceRecord) -> None:
    exact = dataclasses.replace(found, lower=0.5, metrics={"psnr": math.inf, "ssim": math.nan})
    nowhere = dataclasses.replace(missed, lower=math.inf)
    wrong = dataclasses.replace(missed, upper=0.0)
    records = (found, missed, exact, nowhere, wrong)
    rows = [json.loads(json.dumps(r.row(), allow_nan=False)) for r in records]
    assert [row["lower"] for row in rows] == [0.125, 0.0, 0.5, None, 0.0]
    assert [row["upper"] for row in rows] == [0.5, None, 0.5, None, 0.0]
    verdicts = ["open", "open", "closed", "none exists", "misclassified"]
    assert [row["verdict"] for row in rows] == verdicts
    assert [r.closed for r in records] == [False, False, True, True, True]
    assert rows[2]["metrics"] == {"psnr": "inf", "ssim": None}


def test_what_became_of_the_8_bit_picture(found: DistanceRecord, missed: DistanceRecord) -> None:
    assert found.pictures is not None
    nearest = np.rint(255 * found.pictures.witness.astype(np.float64)).astype(np.uint8)
    turned = nearest ^ np.uint8(1)
    records = [dataclasses.replace(found, rounded=levels) for levels in (nearest, turned, None)]
    assert [r.rounding for r in (*records, missed)] == ["kept", "repaired", "lost", None]
    assert [r.row()["rounding"] for r in records] == ["kept", "repaired", "lost"]


def test_infinities_survive_and_nan_is_left_out(
    found: DistanceRecord, header: RunHeader, tmp_path: Path
) -> None:
    """No counterexample at all, and two pictures without a difference."""
    kept = dataclasses.replace(
        found,
        lower=math.inf,
        upper=math.inf,
        history=(BracketEvent(1.0, "", math.inf, math.inf),),
        metrics={"psnr": math.inf, "ssim": math.nan, "pixels": 0.0},
    )
    with RunStore.create_or_resume(tmp_path / "run.db", header) as store:
        store.add_distance(kept)
        (back,) = store.distances()
    assert (back.lower, back.upper, back.state) == (math.inf, math.inf, "none exists")
    assert back.history == kept.history
    assert back.metrics == {"psnr": math.inf, "pixels": 0.0}
