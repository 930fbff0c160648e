"""The real properties: every file is read, means what it says, and survives being written."""

from __future__ import annotations

import gzip
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest
from _spec_compare import same

from closegap.data import load_data, select
from closegap.specs.property import Property
from closegap.specs.vnnlib import load_instances, load_vnnlib, parse_vnnlib, write_vnnlib

DataPath: TypeAlias = Callable[[str], Path]
Expression: TypeAlias = "str | list[Expression]"

#: Instances of each family.
FAMILIES = {
    "acasxu": 93,
    "cgan": 4,
    "cifar10_resnet": 36,
    "collins_rul_cnn": 31,
    "dist_shift": 36,
    "eran_mnist_9_200": 18,
    "marabou_bnn": 10,
    "marabou_cifar10": 24,
    "mnist_fc": 45,
    "oval21": 15,
    "reach_prob_density": 18,
    "rl_benchmarks": 62,
    "sri_resnet_a": 36,
    "sri_resnet_b": 36,
    "tllverifybench": 16,
    "traffic_signs_recognition": 23,
    "verivital": 30,
}


@pytest.mark.parametrize("family", FAMILIES)
def test_instances_and_their_files(family: str, data_path: DataPath) -> None:
    instances = load_instances(data_path(f"vnncomp/{family}/instances.csv"))
    assert len(instances) == FAMILIES[family]
    for instance in instances:
        assert instance.onnx.is_file() and instance.vnnlib.is_file()
        assert instance.timeout > 0
        assert instance.expected in {"sat", "unsat", "unknown"}


def test_the_families_hold_all_of_vnn_comp_and_ten_binarized_ones() -> None:
    assert sum(FAMILIES.values()) == 523 + FAMILIES["marabou_bnn"]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_file_round_trips(family: str, data_path: DataPath) -> None:
    instances = load_instances(data_path(f"vnncomp/{family}/instances.csv"))
    for path in sorted({instance.vnnlib for instance in instances}):
        spec = load_vnnlib(path)
        assert same(parse_vnnlib(write_vnnlib(spec)), spec), path


def naive(text: str) -> Iterator[Expression]:
    """The file's groups, read in the simplest way there is."""
    stack: list[list[Expression]] = [[]]
    bare = re.sub(";.*", "", text)
    for word in bare.replace("(", " ( ").replace(")", " ) ").split():
        if word == "(":
            stack.append([])
        elif word == ")":
            group = stack.pop()
            stack[-1].append(group)
        else:
            stack[-1].append(word)
    yield from stack[0]


def holds(formula: Expression, x: np.ndarray, y: np.ndarray) -> bool:
    head, *parts = formula
    if head in ("and", "or"):
        return (all if head == "and" else any)(holds(part, x, y) for part in parts)
    left, right = (
        float({"X": x, "Y": y}[part[0]][int(part[2:])]) if part[0] in "XY" else float(part)
        for part in map(str, parts)
    )
    return left <= right if head == "<=" else left >= right


def near_borders(prop: Property, rng: np.random.Generator) -> list[np.ndarray]:
    """Outputs just inside and just outside the set that breaks the property."""
    row = rng.integers(len(prop.rows))
    normal = prop.rows[row]
    many = rng.normal(size=(400, prop.rows.shape[1]))
    many -= np.outer(many @ normal + prop.offsets[row], normal) / (normal @ normal)
    many += np.outer(rng.normal(size=400), normal)
    margins = prop.margins(many)
    broken, whole = (np.flatnonzero(side) for side in (margins <= 0, margins > 0))
    return [many[side[np.argmin(np.abs(margins[side]))]] for side in (broken, whole) if len(side)]


@pytest.mark.parametrize("family", FAMILIES)
def test_files_mean_what_they_say(
    family: str, data_path: DataPath, rng: np.random.Generator
) -> None:
    """Against an evaluation of the raw text, at points inside and just outside the boxes."""
    files = sorted(data_path(f"vnncomp/{family}/vnnlib").glob("*.gz"))
    small = [f for f in files if f.stat().st_size < 3000] or files[:1]
    seen: Counter[bool] = Counter()
    for path in small[:40]:
        text = gzip.decompress(path.read_bytes()).decode()
        asserted = [c[1] for c in naive(text) if c[0] == "assert"]
        spec = load_vnnlib(path)
        case = spec.cases[rng.integers(len(spec.cases))]
        inside = rng.uniform(case.box.lower, case.box.upper)
        outside = inside.copy()
        place = rng.integers(spec.inputs)
        outside[place] = np.nextafter(case.box.upper[place], np.inf)
        for x, y in product((inside, outside), near_borders(case.prop, rng)):
            got = any(
                bool((c.box.lower <= x).all() and (x <= c.box.upper).all())
                and float(c.prop.margins(y[None])[0]) <= 0
                for c in spec.cases
            )
            want = all(holds(formula, x, y) for formula in asserted)
            assert got == want, path
            seen[want] += 1
    assert seen[False] > seen[True] > 0


class TestShapes:
    def test_acasxu_prop_6_has_two_boxes(self, data_path: DataPath) -> None:
        spec = load_vnnlib(data_path("vnncomp/acasxu/vnnlib/prop_6.vnnlib.gz"))
        assert spec.name == "prop_6"
        lowers = [case.box.lower.tolist() for case in spec.cases]
        uppers = [case.box.upper.tolist() for case in spec.cases]
        assert lowers == [
            [-0.129289109, 0.11140846, -0.499999896, -0.5, -0.5],
            [-0.129289109, -0.499999896, -0.499999896, -0.5, -0.5],
        ]
        assert uppers == [
            [0.700434925, 0.499999896, -0.499204121, 0.5, 0.5],
            [0.700434925, -0.11140846, -0.499204121, 0.5, 0.5],
        ]
        for case in spec.cases:
            assert case.prop.names == tuple(f"Y_{t} <= Y_0" for t in (1, 2, 3, 4))
            assert case.prop.compares_outputs_only

    def test_acasxu_prop_7_has_two_clauses_of_three_rows(self, data_path: DataPath) -> None:
        (case,) = load_vnnlib(data_path("vnncomp/acasxu/vnnlib/prop_7.vnnlib.gz")).cases
        assert case.prop.clause.tolist() == [0, 0, 0, 1, 1, 1]
        assert case.prop.rows[3].tolist() == [-1, 0, 0, 0, 1]

    def test_cgan_has_an_interval_around_the_output(self, data_path: DataPath) -> None:
        path = next(data_path("vnncomp/cgan/vnnlib").glob("*.gz"))
        (case,) = load_vnnlib(path).cases
        assert case.prop.rows.tolist() == [[-1], [1]]
        low, high = -case.prop.offsets[1], case.prop.offsets[0]
        assert low < high
        inside = np.array([[(low + high) / 2]])
        assert case.prop.margins(inside)[0] == pytest.approx((high - low) / 2)

    @pytest.mark.parametrize("family", ["marabou_bnn", "marabou_cifar10"])
    def test_marabou_asks_for_one_class_on_top(self, family: str, data_path: DataPath) -> None:
        for path in data_path(f"vnncomp/{family}/vnnlib").glob("*.gz"):
            (case,) = load_vnnlib(path).cases
            target = int(re.search(r"target(\d+)", path.name)[1])  # type: ignore[index]
            assert case.prop.clauses == 1 and len(case.prop.rows) == 9
            assert (case.prop.rows[:, target] == -1).all()


class TestAgainstImages:
    """Boxes are balls around images that another source has."""

    def test_mnist(self, data_path: DataPath, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CLOSEGAP_DATA", str(data_path("mnist").parent))
        mnist = load_data("mnist")
        folder = data_path("vnncomp/eran_mnist_9_200/vnnlib")
        for path in folder.glob("*.gz"):
            found = re.search(r"idx_(\d+)_eps_([\d.]+)\.vnnlib", path.name)
            assert found is not None
            image = select(mnist, indices=[int(found[1])]).images.reshape(-1).astype(float)
            box = load_vnnlib(path).cases[0].box
            eps = float(found[2])
            np.testing.assert_allclose(box.lower, np.clip(image - eps, 0, 1), atol=1e-6)
            np.testing.assert_allclose(box.upper, np.clip(image + eps, 0, 1), atol=1e-6)

    def test_cifar_nhwc(self, data_path: DataPath, monkeypatch: pytest.MonkeyPatch) -> None:
        from closegap.data import fit_to_network

        monkeypatch.setenv("CLOSEGAP_DATA", str(data_path("cifar10").parent))
        cifar = fit_to_network(load_data("cifar10"), (32, 32, 3))
        checked = 0
        for path in data_path("vnncomp/marabou_cifar10/vnnlib").glob("*.gz"):
            found = re.search(r"index(\d+)_eps([\d.]+)_target\d+_orig(\d)", path.name)
            assert found is not None
            (image,) = (chosen := select(cifar, indices=[int(found[1])])).images
            assert chosen.labels[0] == int(found[3])
            box = load_vnnlib(path).cases[0].box
            eps = float(found[2])
            np.testing.assert_allclose(
                box.upper, np.minimum(image.reshape(-1).astype(float) + eps, 1), atol=1e-6
            )
            checked += 1
        assert checked == 24


def test_a_large_file_is_read_at_once(data_path: DataPath) -> None:
    """333 kB, 6145 assertions; a quarter of a second was asked for."""
    path = data_path("vnncomp/cifar10_resnet/vnnlib/prop_0_eps_0.004.vnnlib.gz")
    times = []
    for _ in range(3):
        begin = time.perf_counter()
        load_vnnlib(path)
        times.append(time.perf_counter() - begin)
    assert min(times) < 0.25
