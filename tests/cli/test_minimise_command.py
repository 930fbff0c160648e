"""`closegap attack --minimise`: rows, archives, pictures, a store that continues, a report."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnxruntime
import pytest
from onnx import helper
from PIL import Image

from closegap.mip.registry import backend
from closegap.strategy.bracketing import Bracketing
from closegap.testing.networks import onnx_model
from conftest import write_mlp
from tiny_networks import bright_pixel_model

Call: TypeAlias = Callable[..., Any]

QUICK = ("--timeout", "0.5", "--limit", "2", "--json")


@pytest.fixture
def asked(model: Path, images: Path) -> tuple[object, ...]:
    return ("attack", model, "--data", images, *QUICK)


def test_distances_stand_side_by_side(
    call: Call, asked: tuple[object, ...], images: Path, tmp_path: Path
) -> None:
    store, page, png = tmp_path / "run.db", tmp_path / "out.html", tmp_path / "png"
    said = call(*asked, "--minimise", "linf,2", "--store", store, "--png", png, "--save", tmp_path)
    assert said.code == 0, said.err
    assert [(row["index"], row["distance"]) for row in said.rows] == [
        (index, name) for index in (0, 1) for name in ("linf", "l2")
    ]
    assert all(row["metrics"]["sparsity"] <= 100 for row in said.rows if row["upper"] is not None)
    again = call(*asked, "--minimise", "linf,2", "--store", store)
    assert again.rows == said.rows  # from the store, to the last digit of the seconds
    more = call(*asked, "--minimise", "l1", "--store", store)
    assert [row["distance"] for row in more.rows] == ["l1", "l1"]
    assert call("report", store, "-o", page).code == 0
    text = page.read_text(encoding="utf-8")
    assert text.count('<article class="card"') == 2 and text.count("<tr data-row=") == 6
    with np.load(images) as data, np.load(tmp_path / "linf.npz") as found:
        for place, row in enumerate(said.rows[::2]):
            offset = np.abs(found["images"][place].astype(float) - data["images"][place])
            assert row["upper"] is None or offset.max() <= row["upper"]
    assert {path.suffix for path in png.iterdir()} == {".png"}
    assert len(list(png.glob("*_sheet.png"))) == 2


def test_what_is_read_back_from_a_png_loses_the_label(
    call: Call, asked: tuple[object, ...], model: Path, tmp_path: Path
) -> None:
    said = call(*asked, "--minimise", "l2", "--png", tmp_path)
    assert said.code == 0, said.err
    session = onnxruntime.InferenceSession(str(model))
    checked = 0
    for row in said.rows:
        for place in tmp_path.glob(f"{row['index']:05d}_*_witness.png"):
            pixels = np.asarray(Image.open(place), dtype=np.float32) / 255
            (outputs,) = session.run(None, {"x": pixels.reshape(1, 1, 8, 8)})
            assert outputs[0].argmax() != row["label"]
            checked += 1
    assert checked == len(said.rows)


def test_that_none_exists_is_an_answer_of_its_own(call: Call, tmp_path: Path) -> None:
    """The first class wins everywhere: by a label of it no input loses, by another all do."""
    nodes = [
        helper.make_node("Flatten", ["input"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w", "b"], ["z"], transB=1),
        helper.make_node("Relu", ["z"], ["h"]),
        helper.make_node("Gemm", ["h", "v", "c"], ["output"], transB=1),
    ]
    weights = {
        "w": np.eye(4)[:3], "b": np.array([0.0, -0.5, -0.5]),
        "v": np.array([[0.0, 0, 0], [1.0, 1, -1]]), "c": np.array([2.0, 0.0]),
    }  # fmt: skip
    model, images, store = tmp_path / "net.onnx", tmp_path / "two.npz", tmp_path / "run.db"
    model.write_bytes(onnx_model(nodes, weights, ["N", 1, 2, 2]))
    np.savez(images, images=np.full((2, 2, 2), 0.4, dtype=np.float32), labels=np.array([0, 1]))
    asked = ("attack", model, "--data", images, "--minimise", "linf,l2,l0,l1+tv")
    said = call(*asked, "--timeout", "9", "--store", store, "--json")
    assert said.code == 0, said.err
    first = [row for row in said.rows if row["label"] == 0]
    assert [(row["verdict"], row["lower"], row["upper"]) for row in first] == [
        ("none exists", None, None)
    ] * 4
    assert all("proved: no input in [0, 1]" in row["detail"] for row in first)
    wrong = [row for row in said.rows if row["label"] == 1]
    assert [(row["verdict"], row["upper"]) for row in wrong] == [("misclassified", 0.0)] * 4
    assert said.err.count("no counterexample exists") == 4
    again = call(*asked, "--timeout", "9", "--store", store)
    assert "0 of 4 have a counterexample; as an 8-bit picture 0 of 4" in again.out
    assert again.out.count("none exists") == 4 and again.out.count("misclassified") == 5
    late = call(*asked, "--timeout", "0", "--json")
    assert [row["verdict"] for row in late.rows[:4]] == ["open"] * 4


def test_one_solver_alone_may_be_asked(call: Call, asked: tuple[object, ...]) -> None:
    said = call(*asked, "--minimise", "l1", "--exact", "paper", "--limit", "1")
    assert said.code == 0, said.err
    assert [row["options"] for row in said.rows] == [{"exact": "paper"}]
    assert [row["rounding"] in ("kept", "repaired", "lost", None) for row in said.rows] == [True]


def test_a_target_may_have_to_win_outright(call: Call, tmp_path: Path) -> None:
    """Beating the label takes one input, winning over the third class another too."""
    nodes = [
        helper.make_node("Gemm", ["input", "w"], ["z"], transB=1),
        helper.make_node("Relu", ["z"], ["h"]),
        helper.make_node("Gemm", ["h", "v", "c"], ["output"], transB=1),
    ]
    weights = {
        "w": np.eye(2), "v": np.array([[0.0, 0.0], [1.0, 0.0], [1.0, -1.0]]),
        "c": np.array([0.5, 0.0, 0.25]),
    }  # fmt: skip
    model, images, saved = tmp_path / "net.onnx", tmp_path / "one.npz", tmp_path / "near.npz"
    model.write_bytes(onnx_model(nodes, weights, ["N", 2]))
    np.savez(images, images=np.zeros((1, 2), dtype=np.float32), labels=np.array([0]))
    asked = ("attack", model, "--data", images, "--timeout", "5", "--json", "--target", "1")
    loose = call(*asked, "--minimise", "l1,linf", "--save", tmp_path)
    assert [row["upper"] for row in loose.rows] == pytest.approx([0.5, 0.5], abs=1e-3)
    for more in ((), ("--exact", "tree")):
        said = call(*asked, "--outright", "--minimise", "l1,linf", "--save", saved, *more)
        assert said.code == 0, said.err
        assert [row["upper"] for row in said.rows] == pytest.approx([0.75, 0.5], abs=1e-3)
        assert [row["verdict"] for row in said.rows] == ["closed", "closed"]
        assert all(row["options"]["outright"] for row in said.rows)
        with np.load(saved) as found:
            (outputs,) = onnxruntime.InferenceSession(str(model)).run(
                None, {"input": found["images"][:1]}
            )
            assert outputs[0].argmax() == 1


def test_images_of_the_target_are_left_out_aloud(call: Call, asked: tuple[object, ...]) -> None:
    labels = [row["label"] for row in call(*asked, "--minimise", "l2", "--timeout", "0").rows]
    assert len(set(labels)) == 2
    said = call(*asked, "--minimise", "l2", "--timeout", "0", "--target", str(labels[0]))
    assert said.code == 0, said.err
    assert [row["label"] for row in said.rows] == labels[1:]
    assert f"--target {labels[0]}: left out, being of this class: 1" in said.err


def test_one_archive_holds_every_distance(
    call: Call, asked: tuple[object, ...], tmp_path: Path
) -> None:
    saved = tmp_path / "near.npz"
    said = call(*asked, "--minimise", "l2,linf", "--save", saved)
    assert said.code == 0, said.err
    with np.load(saved) as found:
        assert found["distances"].tolist() == ["l2", "linf"] * 2
        assert len(found["images"]) == 4


def test_an_interrupted_bracket_is_shown_and_saved(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digits = Path(str(files("closegap") / "demo" / "digits_mlp.onnx"))
    asked = ("attack", digits, "--data", "digits", "--timeout", "1", "--limit", "2", "--json")
    names = ("linf", "l2", "l1", "l0", "l1+tv")

    def interrupted(search: Bracketing) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Bracketing, "halve", interrupted)
    session, store = onnxruntime.InferenceSession(str(digits)), tmp_path / "run.db"
    for name in names:
        saved = tmp_path / f"{name}.npz"
        said = call(*asked, "--minimise", name, "--save", saved)
        assert said.code == 130, said.err
        (row,), (line,) = said.rows, said.error_lines
        assert f"; 1 brackets and images are in {saved}" in line
        assert row["lower"] >= 0 and row["detail"].startswith("interrupted")
        if row["upper"] is None:  # too slow a machine to find any
            continue
        assert row["lower"] <= row["upper"]
        with np.load(saved) as found:
            entry = session.get_inputs()[0]
            image = found["images"].reshape(1, *entry.shape[1:])
            (outputs,) = session.run(None, {entry.name: image})
            assert outputs[0].argmax() != found["labels"][0]
    said = call(*asked, "--minimise", "linf", "--store", store)
    assert said.code == 130 and len(said.rows) == 1 and "0 distances are in" in said.err
    monkeypatch.undo()
    again = call(*asked, "--minimise", "linf", "--store", store)
    assert again.code == 0 and [row["detail"][:5] == "inter" for row in again.rows] == [False] * 2


def test_misuse_is_one_line(
    call: Call, asked: tuple[object, ...], model: Path, images: Path, tmp_path: Path
) -> None:
    method = ("attack", model, "--data", images, "--method", "pgd", "--eps", "0.1")
    (tmp_path / "file").write_text("")
    refused = {
        (*asked, "--minimise", "l3"): "no distance is called 'l3'",
        (*asked, "--minimise", "l1", "--png", tmp_path / "file"): "it is a file; give",
        (*asked, "--minimise", "l1", "--save", tmp_path / "no" / "such"): "cannot be made",
        (*asked, "--minimise", "l1", "--store", tmp_path): "it is a folder",
        (*asked, "--minimise", "l1", "--tv-of", "image"): "--tv-of goes with --minimise l1+tv",
        (*asked, "--minimise", "l1", "--exact", "abacus"): "no exact solver is called 'abacus'",
        (*asked, "--minimise", "l1", "--outright"): "--outright goes with --target",
        (*method, "--outright"): "--outright goes with --minimise",
        (*method, "--kappa", "0.1"): "--kappa goes with --minimise",
        (*method, "--isotropic"): "--isotropic goes with --minimise",
        (*method, "--tv-of", "image"): "--tv-of goes with --minimise",
        (*method, "--store", tmp_path / "run.db"): "--store goes with --minimise",
    }
    for arguments, text in refused.items():
        said = call(*arguments)
        assert said.code == 2
        assert text in " ".join(said.error_lines), said.err


def test_the_order_of_flat_colour_inputs_is_asked_for_or_said(call: Call, tmp_path: Path) -> None:
    """The label is lost where the three channels of one pixel are bright: entries 30, 31 and 32."""
    model, images, png = tmp_path / "net.onnx", tmp_path / "one.npz", tmp_path / "png"
    model.write_bytes(bright_pixel_model())
    np.savez(images, images=np.zeros((1, 8, 8, 3), dtype=np.uint8), labels=np.array([0]))
    asked = ("attack", model, "--data", images, "--timeout", "3", "--json", "--minimise", "l0")
    right = call(*asked, "--layout", "hwc", "--png", png)
    assert right.code == 0, right.err
    (row,) = right.rows
    assert (row["lower"], row["upper"], row["metrics"]["pixels"]) == (1.0, 1.0, 1.0)
    assert row["options"] == {"layout": "hwc"} and "flat inputs" not in right.err
    (witness,) = png.glob("*_witness.png")
    bright = np.asarray(Image.open(witness)).min(axis=2) > 200
    assert np.argwhere(bright).tolist() == [[1, 2]]  # pixel 10
    other = call(*asked)
    assert [(row["lower"], row["upper"]) for row in other.rows] == [(3.0, 3.0)]
    assert "flat inputs are taken for 8x8 pictures of 3 channels" in other.err
    near = ("attack", model, "--data", images, "--method", "sigma-zero", "--json")
    found = [call(*near, *more).rows[0]["pixels"] for more in ((), ("--layout", "hwc"))]
    assert found == [3, 1]


def test_how_narrow_a_closed_bracket_is(call: Call, model: Path, right: Path) -> None:
    asked = ("attack", model, "--data", right, *QUICK)
    for text in ("nan", "-1", "inf", "0", "few", "100%"):
        said = call(*asked, "--minimise", "linf", "--tolerance", text)
        assert said.code == 2 and "is no tolerance: give a positive number" in said.err
    said = call("attack", *asked[1:], "--method", "pgd", "--eps", "0.1", "--tolerance", "1%")
    assert said.code == 2 and "--tolerance goes with --minimise" in said.err
    coarse = call(*asked, "--minimise", "linf", "--tolerance", "50%", "--timeout", "5")
    assert coarse.code == 0, coarse.err
    for row in coarse.rows:
        assert row["options"] == {"tolerance": "50%"}
        assert row["tolerance"] == pytest.approx(max(0.5 * row["upper"], 1e-6))
        assert (row["verdict"] == "closed") == (row["upper"] - row["lower"] <= row["tolerance"])
    closed = [row for row in coarse.rows if row["verdict"] == "closed"]
    assert closed and f"closed within {closed[0]['tolerance']:.2g}" in coarse.err


def test_who_answered_in_anothers_place_is_told(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In rows and under the table, also where the bracket is closed."""
    nodes = [
        helper.make_node("Gemm", ["input", "w"], ["z"], transB=1),
        helper.make_node("Relu", ["z"], ["h"]),
        helper.make_node("Gemm", ["h", "v", "c"], ["output"], transB=1),
    ]
    weights = {"w": np.eye(2), "v": np.array([[0.0, 0.0], [1.0, 0.5]]), "c": np.array([0.5, 0.0])}
    model, images = tmp_path / "net.onnx", tmp_path / "one.npz"
    model.write_bytes(onnx_model(nodes, weights, ["N", 2]))
    np.savez(images, images=np.zeros((1, 2), dtype=np.float32), labels=np.array([0]))
    asked = ("attack", model, "--data", images, "--minimise", "l1", "--timeout", "20")
    for part in ("first_floor", "halve"):  # they would close the bracket
        monkeypatch.setattr(Bracketing, part, lambda search: None)
    monkeypatch.setattr(type(backend("gurobi")), "installed", lambda self: False)
    row, table = call(*asked, "--exact", "gurobi", "--json"), call(*asked, "--exact", "gurobi")
    assert [one["verdict"] for one in row.rows] == ["closed"], row.err
    assert "gurobi did not answer, " in row.rows[0]["detail"]
    assert "1 of 1: gurobi did not answer, " in table.out


def test_zero_is_a_value_like_any_other(call: Call, model: Path, images: Path) -> None:
    """A target of class 0 was taken for none, and attacks without --minimise ran untargeted."""
    asked = ("attack", model, "--data", images)
    for method in (("--method", "pgd", "--eps", "0.1"), ("--method", "ead")):
        for option in ("--target", "--kappa"):
            said = call(*asked, *method, option, "0")
            assert said.code == 2 and f"{option} goes with --minimise" in said.err
    said = call(*asked, "--minimise", "l1", "--kappa", "0")
    assert said.code == 2 and "--kappa goes with --minimise l1+tv" in said.err


def test_inputs_that_are_no_pictures_are_said_not_to_be_drawn(call: Call, tmp_path: Path) -> None:
    model, images = tmp_path / "net.onnx", tmp_path / "row.npz"
    write_mlp(model, shape=(1, 2, 7), classes=3)
    np.savez(images, images=np.zeros((1, 2, 7)), labels=np.array([0]))
    asked = ("attack", model, "--data", images, "--timeout", "0", "--minimise", "l1")
    said = call(*asked, "--png", tmp_path / "png")
    assert said.code == 0 and "--png: inputs of shape [1, 2, 7] are no pictures" in said.err
    assert "no pictures" not in call(*asked).err
