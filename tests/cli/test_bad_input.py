"""Misuse and bad input: one line that says what and where, exit code 2, nothing on stdout."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from closegap.store import RunStore
from conftest import SPEC, Said, write_mlp

Call = Callable[..., Said]

#: The fastest cascade, for tests of everything around it.
QUICK = ("--engines", "clean")


def _refused(said: Said, *fragments: str) -> None:
    assert said.code == 2, said
    assert said.out == ""
    (line,) = said.error_lines
    assert line.startswith("closegap: error: ")
    for fragment in fragments:
        assert fragment in line
    noise = [text for text in said.err.splitlines() if text not in said.error_lines]
    assert not noise, noise


def _nan(weights: dict[str, np.ndarray]) -> None:
    weights["w1"][3, 4] = np.nan


def _make_model(name: str, folder: Path) -> Path:
    """A file that is no usable network, by the name of its fault."""
    path = folder / f"{name}.onnx"
    good = write_mlp(folder / "good.onnx")
    if name == "not-onnx":
        path.write_text("this is a shopping list, not a network " * 20)
    elif name == "empty":
        path.touch()
    elif name == "folder":
        path.mkdir()
    elif name == "truncated-gzip":
        path.write_bytes(gzip.compress(good.read_bytes())[:-200])
    elif name == "truncated":
        path.write_bytes(good.read_bytes()[:-300])
    elif name == "unsupported":
        write_mlp(path, activation="Erf")
    elif name == "nan":
        write_mlp(path, change=_nan)
    return path


_MODELS = {
    "missing": ("no such file",),
    "not-onnx": ("not-onnx.onnx", "ONNX"),
    "empty": ("empty",),
    "folder": ("is a folder",),
    "truncated-gzip": ("truncated gzip",),
    "truncated": ("truncated.onnx",),
    "unsupported": ("unsupported.onnx", "unsupported op Erf", "'act'"),
    "nan": ("nan.onnx", "w1", "NaN"),
}


@pytest.mark.parametrize("fault", _MODELS)
def test_models(call: Call, tmp_path: Path, fault: str) -> None:
    path = _make_model(fault, tmp_path)
    said = call("evaluate", path, "--data", "digits", "--eps", "0.1", "--limit", "1", *QUICK)
    _refused(said, *_MODELS[fault])


_DATA: dict[str, tuple[dict[str, np.ndarray], tuple[str, ...]]] = {
    "shape": ({"images": np.zeros((2, 1, 7, 7), np.float32), "labels": np.arange(2)},
              ("[1, 7, 7]", "[1, 8, 8]")),
    "label beyond": ({"images": np.zeros((2, 1, 8, 8), np.float32), "labels": np.array([3, 12])},
                     ("label 12", "0..9")),
    "label below": ({"images": np.zeros((2, 1, 8, 8), np.float32), "labels": np.array([-1, 1])},
                    ("label -1",)),
    "pixels": ({"images": np.full((1, 1, 8, 8), 255, np.float32), "labels": np.arange(1)},
               ("255", "[0, 1]")),
    "nan pixel": ({"images": np.full((1, 1, 8, 8), np.nan, np.float32), "labels": np.arange(1)},
                  ("nan",)),
    "empty": ({"images": np.zeros((0, 1, 8, 8), np.float32), "labels": np.zeros(0, np.int64)},
              ("empty",)),
    "no labels": ({"images": np.zeros((1, 1, 8, 8), np.float32)}, ("labels",)),
}  # fmt: skip


@pytest.mark.parametrize("fault", _DATA)
def test_data(call: Call, model: Path, tmp_path: Path, fault: str) -> None:
    arrays, fragments = _DATA[fault]
    path = tmp_path / "data.npz"
    np.savez(path, **arrays)
    _refused(call("evaluate", model, "--data", path, "--eps", "0.1", *QUICK), "data", *fragments)


def test_data_that_is_not_there(call: Call, model: Path, tmp_path: Path) -> None:
    _refused(
        call("evaluate", model, "--data", "nowhere", "--eps", "0.1", *QUICK), "'nowhere'", "digits"
    )


@pytest.mark.parametrize(
    ("options", "fragments"),
    [
        (["--eps", "-0.1"], ("'--eps'", "-0.1 must be finite and not negative")),
        (["--eps", "nan"], ("'--eps'", "nan must be finite")),
        (["--eps", "inf"], ("'--eps'", "inf must be finite")),
        (["--eps", "8/0"], ("'--eps'", "'8/0' is not a number")),
        (["--eps", "wide"], ("'--eps'", "'wide' is not a number")),
        ([], ("Missing option '--eps'",)),
        (["--eps", "0.1", "--norm", "3"], ("'--norm'", "'3' is not a norm")),
        (["--eps", "0.1", "--timeout", "-1"], ("'--timeout'", "-1 must be finite")),
        (["--eps", "0.1", "--timeout", "nan"], ("'--timeout'",)),
        (["--eps", "0.1", "--workers", "0"], ("'--workers'",)),
        (["--eps", "0.1", "--workers", "x"], ("'--workers'",)),
        (["--eps", "0.1", "--limit", "0"], ("'--limit'",)),
        (["--eps", "0.1", "--seed", "-1"], ("'--seed'",)),
        (["--eps", "0.1", "--engines", "clean,magic"], ("unknown engine 'magic'", "clean, ")),
        (["--eps", "0.1", "--engines", "clean,,crown"], ("'--engines'", "not a list of names")),
        (["--eps", "0.1", "--indices", "nowhere.txt"], ("nowhere.txt", "no such file")),
        (["--eps", "0.1", "--report", "/nowhere/out.html"], ("--report", "does not exist")),
        (["--eps", "0.1", "--report", "/tmp"], ("--report", "is a folder")),
        (["--eps", "0.1", "--store", "/proc/run.db"], ("/proc/run.db", "choose a folder")),
        (["--eps", "0.1", "--store", "/nowhere/run.db"], ("/nowhere", "does not exist")),
        (["--eps", "0.1", "--store", "/tmp"], ("/tmp", "is a folder")),
        (["--eps", "0.1", "--bogus"], ("--bogus",)),
    ],
)
def test_options(
    call: Call, model: Path, images: Path, options: list[str], fragments: tuple[str, ...]
) -> None:
    _refused(call("evaluate", model, "--data", images, *QUICK, *options), *fragments)


def test_indices_that_name_no_image(call: Call, model: Path, images: Path, tmp_path: Path) -> None:
    listed = tmp_path / "list.txt"
    for text, fragment in (("0\n99\n", "99"), ("zero\n", "zero"), ("", "no index")):
        listed.write_text(text)
        said = call(
            "evaluate", model, "--data", images, "--eps", "0.1", "--indices", listed, *QUICK
        )
        _refused(said, fragment)


@pytest.mark.parametrize("text", ["an ordinary text file " * 100, ""])
def test_a_store_that_is_another_file(
    call: Call, model: Path, images: Path, tmp_path: Path, text: str
) -> None:
    path = tmp_path / "notes.db"
    path.write_text(text)
    said = call("report", path, "-o", tmp_path / "out.html")
    _refused(said, "notes.db")
    if text:
        said = call("evaluate", model, "--data", images, "--eps", "0.1", "--store", path, *QUICK)
        _refused(said, "notes.db", "not an SQLite file")
        assert path.read_text() == text


@pytest.mark.parametrize("folder", ["/", "."])
def test_a_store_that_is_a_folder(call: Call, model: Path, images: Path, folder: str) -> None:
    said = call("evaluate", model, "--data", images, "--eps", "0.1", "--store", folder, *QUICK)
    _refused(said, "it is a folder; give the name of a file")


def test_a_store_made_for_another_model(
    call: Call, model: Path, images: Path, tmp_path: Path
) -> None:
    store = tmp_path / "run.db"
    common = ["--data", images, "--engines", "clean", "--limit", "1", "--store", store]
    assert call("evaluate", model, "--eps", "0.1", *common).code == 0

    def change(weights: dict[str, np.ndarray]) -> None:
        weights["b1"] += 1

    other = write_mlp(tmp_path / "other.onnx", change=change)
    said = call("evaluate", other, "--eps", "0.1", *common)
    _refused(said, "run.db", "another model", "net.onnx")
    _refused(call("evaluate", model, "--eps", "0.2", *common), "radius 0.1, not 0.2")
    with RunStore.open(store) as kept:
        assert len(kept) == 1


_SPECS: dict[str, tuple[str, tuple[str, ...]]] = {
    "syntax": (SPEC + "(assert (<= Y_0", ("prop.vnnlib:", "(")),
    "variable": (SPEC + "(assert (<= Z_3 0.0))\n", ("prop.vnnlib:10:", "Z_3")),
    "missing bound": (SPEC.replace("(assert (<= X_1 0.75))\n", ""), ("X_1", "upper bound")),
    "lower above upper": (SPEC + "(assert (<= X_1 0.1))\n", ("prop.vnnlib:10:", "X_1")),
    "another network": (
        "(declare-const X_2 Real)\n" + SPEC + "(assert (>= X_2 0.0))\n(assert (<= X_2 1.0))\n",
        ("prop.vnnlib", "3 inputs", "2"),
    ),
}


@pytest.mark.parametrize("fault", _SPECS)
def test_properties(call: Call, difference: Path, spec: Callable[..., Path], fault: str) -> None:
    text, fragments = _SPECS[fault]
    _refused(call("verify", difference, spec(text=text)), *fragments)


def test_properties_that_are_not_there(
    call: Call, difference: Path, spec: Callable[..., Path], tmp_path: Path
) -> None:
    _refused(call("verify", difference, tmp_path / "no.vnnlib"), "no.vnnlib", "no such file")
    _refused(call("verify", tmp_path / "no.onnx", spec()), "no.onnx", "no such file")
    _refused(call("verify", difference), "SPEC.vnnlib")
    _refused(call("verify", difference, spec(), "--store", tmp_path / "s.db"), "--instances")
    _refused(call("verify", difference, spec(), "--instances", "x.csv"), "stands instead")
    _refused(call("verify", "--instances", tmp_path / "no.csv", *QUICK), "no.csv", "no such file")
    bad = tmp_path / "bad.csv"
    bad.write_text("a.onnx,b.vnnlib,soon\n")
    _refused(call("verify", "--instances", bad, *QUICK), "bad.csv", "'soon'")


def test_a_bad_input_leaves_a_result_file_all_the_same(
    call: Call, difference: Path, tmp_path: Path
) -> None:
    result = tmp_path / "result.txt"
    said = call("verify", difference, tmp_path / "no.vnnlib", "--result", result)
    _refused(said, "no such file")
    assert result.read_text() == "error\n"


def test_attacks(call: Call, model: Path, images: Path, tmp_path: Path) -> None:
    common = ["--data", images, "--eps", "0.1"]
    _refused(call("attack", model, *common, "--method", "magic"), "'magic'", "pgd")
    _refused(call("attack", model, *common, "--method", "pgd", "--save", "x.txt"), ".npz")
    _refused(call("attack", model, *common, "--method", "pgd", "--step-size", "0"), "step size")
    _refused(call("attack", model, "--data", images, "--method", "pgd"), "--eps is missing")
    _refused(call("attack", model, *common, "--minimise", "l2"), "--minimise and --eps exclude")


def test_a_refused_attack_leaves_an_earlier_file_and_shows_no_table(
    call: Call, model: Path, right: Path, tmp_path: Path
) -> None:
    saved = tmp_path / "adv.npz"
    saved.write_bytes(b"of an earlier run")
    common = ["--data", right, "--eps", "0.1", "--limit", "1"]
    _refused(call("attack", model, *common, "--method", "milp", "--save", saved), "no signs")
    assert saved.read_bytes() == b"of an earlier run"
    asked = ["--data", right, "--minimise", "linf", "--target", "10"]
    _refused(call("attack", model, *asked), "--target 10: classes are 0..9")
    nowhere = Path("/proc/adv.npz")
    _refused(call("attack", model, *common, "--method", "pgd", "--save", nowhere), "written")


def test_commands(call: Call) -> None:
    _refused(call("evaluat"), "No such command 'evaluat'")
    nothing = call()
    assert nothing.code == 2 and "Usage: closegap" in nothing.err and nothing.out == ""


def test_an_attack_that_needs_a_label_names_those_that_do_not(
    call: Call, difference: Path, spec: Callable[..., Path]
) -> None:
    said = call("verify", difference, spec(), "--engines", "attack")
    _refused(said, "attack.method=autoattack", "needs a robustness property", "pgd, mt-pgd")
    for method in ("pgd", "mt-pgd", "fab", "square"):
        setting = f"attack.method={method}"
        assert not call("verify", difference, spec(), "--engines", "attack", "--set", setting).code
