"""`closegap evaluate` and `report` on real networks: rows, resuming, reports."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image

import closegap
from closegap.attacks.activation.region_walk import RegionWalkAttack
from closegap.attacks.outcome import AttackInterrupted, AttackOutcome
from closegap.core.budget import Budget
from closegap.specs.query import Query
from closegap.store import Record, RunStore
from conftest import Said
from tiny_networks import bright_pixel_model

Call = Callable[..., Said]

pytestmark = pytest.mark.usefixtures("in_this_process")
QUICK = ("--engines", "clean,crown")
KEYS = {"verdict", "lower", "upper", "seconds", "engine", "index", "label", "target"}


def _records(path: Path) -> list[Record]:
    with RunStore.open(path) as store:
        return list(store.records())


def test_rows_are_the_records_and_agree_with_onnxruntime(
    call: Call, model: Path, images: Path, tmp_path: Path
) -> None:
    said = call(
        *("evaluate", model, "--data", images, "--eps", "1/255", *QUICK, "--json"),
        *("--store", tmp_path / "run.db"),
    )
    assert said.code == 0
    assert set(said.rows[0]) >= KEYS
    records = _records(tmp_path / "run.db")
    assert sorted(said.rows, key=lambda row: row["index"]) == [r.row() for r in records]
    assert [r.index for r in records] == list(range(6))
    session = onnxruntime.InferenceSession(str(model))
    with np.load(images) as data:
        (outputs,) = session.run(None, {"x": data["images"]})
        wrong = outputs.argmax(axis=1) != data["labels"]
    assert wrong.any()
    assert [r.verdict == "falsified" and r.engine == "clean" for r in records] == wrong.tolist()
    for record in (r for r in records if r.pictures is not None):
        assert np.array_equal(record.pictures.witness_outputs, outputs[record.index])


def test_people_get_a_table_and_progress(call: Call, model: Path, images: Path) -> None:
    said = call("evaluate", model, "--data", images, "--eps", "0", *QUICK)
    assert said.code == 0
    assert all(word in said.out for word in ("verified", "falsified", "unknown", "bracket"))
    assert "6/6" in said.err
    assert "\x1b" not in said.out + said.err


def test_radius_zero_is_the_clean_check(call: Call, model: Path, images: Path) -> None:
    said = call("evaluate", model, "--data", images, "--eps", "0", *QUICK, "--json")
    with np.load(images) as data:
        session = onnxruntime.InferenceSession(str(model))
        (outputs,) = session.run(None, {"x": data["images"]})
        right = outputs.argmax(axis=1) == data["labels"]
    rows = sorted(said.rows, key=lambda row: row["index"])
    assert [row["verdict"] == "verified" for row in rows] == right.tolist()


def test_a_second_call_continues(call: Call, model: Path, images: Path, tmp_path: Path) -> None:
    store = tmp_path / "run.db"
    common = ("evaluate", model, "--data", images, "--eps", "0.01", *QUICK, "--store", store)
    first = call(*common, "--limit", "2", "--json")
    assert [row["index"] for row in first.rows] == [0, 1]
    second = call(*common, "--json")
    assert second.rows[:2] == first.rows
    assert {row["index"] for row in second.rows} == set(range(6))
    third = call(*common)
    assert "6 were done before" in third.out
    assert call(*common, "--json").rows == sorted(second.rows, key=lambda row: row["index"])


def test_indices_choose_images(call: Call, model: Path, images: Path, tmp_path: Path) -> None:
    listed = tmp_path / "list.txt"
    listed.write_text("4\n1\n")
    said = call(
        "evaluate", model, "--data", images, "--eps", "0.01", *QUICK, "--json", "--indices", listed
    )
    assert {row["index"] for row in said.rows} == {1, 4}


def test_a_report_is_written_at_the_end_and_later(
    call: Call, model: Path, images: Path, tmp_path: Path
) -> None:
    store, out, later = (tmp_path / name for name in ("run.db", "out.html", "later.html"))
    said = call(
        *("evaluate", model, "--data", images, "--eps", "0.01", *QUICK),
        *("--store", store, "--report", out),
    )
    assert said.code == 0, said.err
    assert out.read_text().lstrip().lower().startswith("<!doctype html>")
    said = call("report", store, "-o", later)
    assert (said.code, said.out) == (0, f"wrote {later}\n")
    assert later.stat().st_size > 10_000


def test_without_a_store_a_report_is_written_all_the_same(
    call: Call, model: Path, images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.html"
    assert (
        call(
            "evaluate",
            model,
            "--data",
            images,
            "--eps",
            "0",
            *QUICK,
            "--limit",
            "1",
            "--report",
            out,
        ).code
        == 0
    )
    assert out.is_file()
    assert not list(tmp_path.glob("*.db"))


def test_the_run_says_where_it_comes_from(
    call: Call, model: Path, images: Path, tmp_path: Path
) -> None:
    call(
        *("evaluate", model, "--data", images, "--eps", "0.01", "--norm", "2", "--seed", "3"),
        *("--store", tmp_path / "r.db", "--limit", "1", *QUICK),
    )
    with RunStore.open(tmp_path / "r.db") as store:
        header = store.header()
    assert header.model == str(model)
    assert header.model_digest == closegap.load(model).digest
    assert (header.eps, header.norm, header.seed) == (0.01, "2", 3)
    assert header.engines == ("clean", "crown")
    assert header.versions["closegap"] == closegap.__version__
    assert int(header.machine["cores"]) >= 1


@pytest.mark.parametrize("method", ["pgd", "fgsm"])
def test_attack_saves_what_it_found_as_a_data_set(
    call: Call, model: Path, images: Path, tmp_path: Path, method: str
) -> None:
    saved = tmp_path / "adv.npz"
    said = call(
        *("attack", model, "--data", images, "--method", method, "--eps", "0.3", "--json"),
        *("--steps", "5", "--save", saved) if method == "pgd" else ("--save", saved),
    )
    assert said.code == 0, said.err
    rows = said.rows
    assert set(rows[0]) >= KEYS
    broken = [row["verdict"] == "falsified" for row in rows]
    with np.load(images) as data, np.load(saved) as found:
        assert found["broken"].tolist() == broken
        assert np.abs(found["images"].astype(float) - data["images"]).max() <= 0.3
        session = onnxruntime.InferenceSession(str(model))
        (outputs,) = session.run(None, {"x": found["images"]})
        assert (outputs.argmax(axis=1) != data["labels"])[broken].all()
    again = call("evaluate", model, "--data", saved, "--eps", "0", "--json", *QUICK)
    wrong = {row["index"] for row in again.rows if row["verdict"] == "falsified"}
    assert {row["index"] for row in rows if row["verdict"] == "falsified"} <= wrong


def test_a_region_of_one_image_is_not_attacked(call: Call, model: Path, right: Path) -> None:
    common = ("--data", right, "--limit", "1", "--eps", "0", "--timeout", "60", "--json")
    (row,) = call("attack", model, *common, "--method", "bab-attack").rows
    assert (row["verdict"], row["reason"]) == ("unknown", "engines exhausted")
    assert row["seconds"] < 10


def test_an_interrupted_attack_keeps_what_it_found(
    call: Call, model: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    walked = RegionWalkAttack.attack_query

    def attacked(attack: RegionWalkAttack, query: Query, budget: Budget) -> AttackOutcome:
        raise AttackInterrupted([replace(walked(attack, query, budget), finished=False)])

    monkeypatch.setattr(RegionWalkAttack, "attack_query", attacked)
    saved = tmp_path / "adv.npz"
    said = call(
        *("attack", model, "--data", images, "--method", "region-walk", "--eps", "0.001"),
        *("--restarts", "1", "--timeout", "1", "--save", saved, "--json"),
    )
    assert said.code == 130
    assert said.rows[-1]["reason"] == "interrupted"
    done = len(said.rows)
    (line,) = said.error_lines
    with np.load(images) as data, np.load(saved) as found:
        total = len(data["images"])
        assert done < total
        assert line.endswith(f"{done} of {total} images were attacked and are in {saved}")
        assert all(len(found[key]) == done for key in ("images", "labels", "broken"))


def test_least_distances_are_rows_and_a_data_set(
    call: Call, model: Path, images: Path, tmp_path: Path
) -> None:
    saved = tmp_path / "near.npz"
    said = call(
        *("attack", model, "--data", images, "--minimise", "linf", "--limit", "2"),
        *("--timeout", "2", "--json", "--save", saved),
    )
    assert said.code == 0, said.err
    assert {row["verdict"] for row in said.rows} <= {"closed", "open", "misclassified"}
    with np.load(images) as data, np.load(saved) as found:
        for place, row in enumerate(said.rows):
            if row["upper"] is None:
                continue
            assert row["lower"] <= row["upper"]
            offset = found["images"][place].astype(float) - data["images"][place]
            assert np.abs(offset).max() <= row["upper"]


def test_the_order_of_flat_colour_inputs_is_asked_for_or_said(call: Call, tmp_path: Path) -> None:
    """The second class wins where a pixel's three channels are bright: entries 30, 31 and 32."""
    model, images, page = tmp_path / "net.onnx", tmp_path / "two.npz", tmp_path / "out.html"
    model.write_bytes(bright_pixel_model())
    pictures = np.zeros((2, 8, 8, 3), dtype=np.uint8)
    pictures[:, 1, 2] = 255  # pixel 10
    np.savez(images, images=pictures, labels=np.array([1, 0]))
    asked = ("evaluate", model, "--data", images, "--eps", "0", *QUICK, "--json")
    stored = (*asked, "--store", tmp_path / "run.db")
    right = call(*stored, "--layout", "hwc", "--report", page)
    assert right.code == 0, right.err
    assert [row["verdict"] for row in right.rows] == ["verified", "falsified"]
    assert "flat inputs" not in right.err
    source = re.search(r'data:image/png;base64,([^"]+)"', page.read_text(encoding="utf-8"))
    assert source is not None
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(source[1]))).convert("L"))
    side = len(shown) // 8
    assert np.argwhere(shown[side // 2 :: side, side // 2 :: side] > 128).tolist() == [[1, 2]]
    other = call(*asked)
    assert [row["verdict"] for row in other.rows] == ["falsified", "verified"]
    assert "flat inputs are taken for 8x8 pictures of 3 channels" in other.err
    mixed = call(*stored)
    assert mixed.code == 2 and "settings" in mixed.err
