"""`closegap verify`: verdicts known by hand, result files, lists of instances."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from closegap.store import RunStore
from conftest import SPEC, Said

Call = Callable[..., Said]
Write = Callable[..., Path]

QUICK = ("--engines", "clean,crown,alpha-crown")

#: For the network (2 x0, x1): holds iff 2 x0 > x1, on x1 <= 0.75 and x0 >= 0.5.
HOLDS = SPEC.replace("(>= X_0 0.0)", "(>= X_0 0.5)")


def test_a_property_that_holds_is_unsat(call: Call, difference: Path, spec: Write) -> None:
    said = call("verify", difference, spec(text=HOLDS), *QUICK)
    assert (said.code, said.out) == (0, "unsat\n")
    assert "margin in [0.25, " in said.err


def test_a_property_that_breaks_is_sat_with_its_witness(
    call: Call, difference: Path, spec: Write, tmp_path: Path
) -> None:
    result = tmp_path / "result.txt"
    said = call("verify", difference, spec(high=0.2), "--result", result, *QUICK)
    assert (said.code, said.out) == (0, "sat\n")
    first, _, rest = result.read_text().partition("\n")
    assert first == "sat"
    values = {name: float(value) for name, value in re.findall(r"\((\w+) ([^)]+)\)", rest)}
    assert list(values) == ["X_0", "X_1", "Y_0", "Y_1"]
    assert 0 <= values["X_0"] <= 0.2 and 0.25 <= values["X_1"] <= 0.75
    session = onnxruntime.InferenceSession(str(difference))
    point = np.array([[values["X_0"], values["X_1"]]], dtype=np.float32)
    (outputs,) = session.run(None, {"x": point})
    assert outputs[0].astype(float).tolist() == [values["Y_0"], values["Y_1"]]
    assert values["Y_0"] <= values["Y_1"]


def test_json_is_one_row(call: Call, difference: Path, spec: Write) -> None:
    said = call("verify", difference, spec(text=HOLDS), "--json", *QUICK)
    (row,) = said.rows
    assert (row["verdict"], row["name"], row["label"]) == ("verified", "difference prop", None)
    assert 0.2 < row["lower"] <= 0.25 <= row["upper"]
    assert said.err == ""


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize(("text", "least"), [(HOLDS, 0.25), (SPEC, -0.75)])
def test_the_least_margin_itself(
    call: Call, difference: Path, spec: Write, text: str, least: float
) -> None:
    said = call("verify", difference, spec(text=text), "--json", "--optimum", *QUICK)
    (row,) = said.rows
    assert row["verdict"] == ("verified" if least > 0 else "falsified")
    assert row["lower"] <= least + 1e-12
    assert (row["lower"], row["upper"]) == (pytest.approx(least, abs=2e-6),) * 2


def test_no_time_is_timeout_with_exit_code_zero(
    call: Call, difference: Path, spec: Write, tmp_path: Path
) -> None:
    result = tmp_path / "result.txt"
    said = call("verify", difference, spec(), "--timeout", "0", "--result", result, *QUICK)
    assert (said.code, said.out) == (0, "timeout\n")
    assert result.read_text() == "timeout\n"


def _list(folder: Path, rows: list[str]) -> Path:
    path = folder / "instances.csv"
    path.write_text("\n".join(rows))
    return path


@pytest.mark.usefixtures("in_this_process")
def test_several_boxes_hold_only_together(call: Call, difference: Path, tmp_path: Path) -> None:
    declared = SPEC.partition("(assert")[0]
    box = "(and (>= X_0 {0}) (<= X_0 {1}) (>= X_1 0.25) (<= X_1 0.75))"
    good, other, bad = (0.5, 0.7), (0.8, 1.0), (0.0, 0.1)
    for name, boxes in (("both", (good, other)), ("second", (good, bad)), ("first", (bad, good))):
        parts = " ".join(box.format(*ends) for ends in boxes)
        text = f"{declared}(assert (or {parts}))\n(assert (<= Y_0 Y_1))\n"
        (tmp_path / f"{name}.vnnlib").write_text(text)
    names = ("both", "second", "first")
    listed = _list(tmp_path, [f"{difference},{name}.vnnlib,30" for name in names])
    both, second, first = call("verify", "--instances", listed, "--json", *QUICK).rows
    assert (both["verdict"], both["lower"]) == ("verified", pytest.approx(0.25, abs=0.01))
    assert second["verdict"] == "falsified" and second["upper"] <= 0
    assert (first["verdict"], first["lower"]) == ("falsified", None)  # the other was not asked


def test_a_list_is_answered_row_by_row_and_continues(
    call: Call, difference: Path, spec: Write, tmp_path: Path
) -> None:
    spec("holds.vnnlib", HOLDS)
    spec("breaks.vnnlib", high=0.2)
    spec("wrong.vnnlib", SPEC + "(assert (<= Y_7 0.0))\n")
    listed = _list(
        tmp_path,
        ["onnx,vnnlib,timeout", *(f"difference.onnx,{n}.vnnlib,30" for n in
         ("holds", "breaks", "wrong", "missing", "holds"))],
    )  # fmt: skip
    store = tmp_path / "run.db"
    common = ("verify", "--instances", listed, "--store", store, *QUICK)
    said = call(*common, "--json", "--workers", "2", "--timeout", "20")
    assert said.code == 0
    rows = sorted(said.rows, key=lambda row: row["index"])
    assert [row["verdict"] for row in rows] == [
        "verified", "falsified", "unknown", "unknown", "verified",
    ]  # fmt: skip
    assert "wrong.vnnlib:" in rows[2]["detail"] and rows[2]["reason"] == "engine failed"
    assert "missing.vnnlib: no such file" in rows[3]["detail"]
    with RunStore.open(store) as kept:
        assert kept.header().timeout == 20.0
        assert json.dumps(rows) == json.dumps([r.row() for r in kept.records()])
    again = call(*common, "--timeout", "20")
    assert "5 were done before" in again.out
    assert rows[2]["detail"] in again.out and rows[3]["detail"] in again.out
    assert "difference holds:" not in again.out  # only what failed is told
    assert call(*common).code == 2  # another timeout is another run


@pytest.mark.usefixtures("in_this_process")
def test_a_changed_property_is_another_run(
    call: Call, difference: Path, spec: Write, tmp_path: Path
) -> None:
    spec("one.vnnlib", HOLDS)
    listed = _list(tmp_path, ["difference.onnx,one.vnnlib,30"])
    common = ("verify", "--instances", listed, "--store", tmp_path / "run.db", *QUICK)
    assert call(*common).code == 0
    spec("one.vnnlib", high=0.2)
    said = call(*common)
    assert said.code == 2 and "another run: data" in said.err


def test_settings_reach_the_engines_and_the_store(
    call: Call, difference: Path, spec: Write, tmp_path: Path
) -> None:
    said = call("verify", difference, spec(text=HOLDS), "--set", "bab.branching=fsb", *QUICK)
    assert (said.code, said.out) == (0, "unsat\n")
    listed = tmp_path / "list.csv"
    listed.write_text(f"{difference},{spec(text=HOLDS)},5\n")
    store = tmp_path / "run.db"
    asked = ("verify", "--instances", listed, "--store", store, *QUICK)
    assert call(*asked, "--set", "bab.batch=8").code == 0
    with RunStore.open(store) as run:
        assert run.header().settings == {"bab.batch": "8"}
    other = call(*asked, "--set", "bab.batch=9")
    assert other.code == 2
    assert len(other.error_lines) == 1


@pytest.mark.parametrize("text", ["bab.bach=8", "bab.batch=x", "bab.batch"])
def test_a_wrong_setting_is_one_line(call: Call, difference: Path, spec: Write, text: str) -> None:
    said = call("verify", difference, spec(text=HOLDS), "--set", text)
    assert (said.code, len(said.error_lines)) == (2, 1)
    assert "bab.batch" in said.err or "bab.bach" in said.err
