"""A run killed inside a tree goes on inside it: the same tree, the same answer."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import helper

from closegap.testing.networks import onnx_model

SECONDS = 60.0
NODES = 1200


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A list with one property that holds by so little that its tree is large."""
    folder, rng = tmp_path_factory.mktemp("tree"), np.random.default_rng(5)
    widths = [6, 24, 24, 1]
    weights, nodes, last = {}, [], "input"
    for layer, (n_in, n_out) in enumerate(pairwise(widths)):
        weights[f"w{layer}"] = rng.normal(size=(n_out, n_in)) / n_in**0.5
        weights[f"b{layer}"] = 0.3 * rng.normal(size=n_out)
        out = "output" if layer == 2 else f"z{layer}"
        nodes.append(helper.make_node("Gemm", [last, f"w{layer}", f"b{layer}"], [out], transB=1))
        if layer < 2:
            nodes.append(helper.make_node("Relu", [out], [f"a{layer}"]))
        last = f"a{layer}"
    (folder / "net.onnx").write_bytes(onnx_model(nodes, weights, ["N", 6]))
    session = onnxruntime.InferenceSession(str(folder / "net.onnx"))
    points = rng.uniform(-1, 1, size=(20000, 6)).astype(np.float32)
    least = float(session.run(None, {"input": points})[0].min())
    lines = [f"(declare-const X_{i} Real)" for i in range(6)] + ["(declare-const Y_0 Real)"]
    lines += [f"(assert (>= X_{i} -1.0))\n(assert (<= X_{i} 1.0))" for i in range(6)]
    (folder / "holds.vnnlib").write_text("\n".join([*lines, f"(assert (<= Y_0 {least - 0.3}))"]))
    with (folder / "list.csv").open("w", newline="") as stream:
        csv.writer(stream).writerow(["net.onnx", "holds.vnnlib", SECONDS])
    return folder / "list.csv"


def command(instance: Path, store: Path) -> list[str]:
    options = ["--engines", "crown,bab", "--nodes", str(NODES), "--snapshot", "0", "--json"]
    return [
        sys.executable, "-m", "closegap", "verify", "--instances", str(instance),
        "--store", str(store), *options,
    ]  # fmt: skip


def answer(instance: Path, store: Path) -> dict[str, Any]:
    done = subprocess.run(
        command(instance, store), capture_output=True, text=True, timeout=120, check=True
    )
    (row,) = [json.loads(line) for line in done.stdout.splitlines()]
    return dict(row)


@pytest.fixture(scope="module")
def whole(instance: Path) -> dict[str, Any]:
    """The answer of a run that nobody disturbs."""
    return answer(instance, instance.parent / "whole.db")


def kill_inside(instance: Path, store: Path) -> Path:
    """Start the run, kill it once a snapshot is there; the snapshot."""
    process = subprocess.Popen(
        command(instance, store), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    folder, until = store.with_name(f"{store.name}.trees"), time.monotonic() + 60
    try:
        while not (found := list(folder.glob("*.npz"))):
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.02)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    return found[0]


def test_a_killed_run_continues_inside_its_tree(instance: Path, whole: dict[str, Any]) -> None:
    store = instance.parent / "killed.db"
    kill_inside(instance, store)
    row = answer(instance, store)
    assert row["counts"].pop("resumed") > 0
    assert whole["counts"].pop("resumed") == 0
    for name in ("verdict", "reason", "lower", "counts"):
        assert row[name] == whole[name], name
    assert whole["counts"]["nodes"] > 100
    assert not store.with_name("killed.db.trees").exists()
