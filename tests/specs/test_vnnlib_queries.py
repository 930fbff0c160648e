"""Specifications asked of networks, float32 edges, instance lists and result files."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from closegap.core.bracket import Witness
from closegap.core.errors import OptionError, SpecError
from closegap.core.verdict import Reason, Verdict
from closegap.frontend import load
from closegap.graph.network import Network
from closegap.specs.region import Box, contains
from closegap.specs.vnnlib import (
    Case,
    Spec,
    load_instances,
    load_vnnlib,
    parse_vnnlib,
    queries,
    result_word,
    write_result,
)
from closegap.testing.networks import random_conv, random_mlp

D = 4


@pytest.fixture(scope="module")
def network() -> Network:
    return random_mlp(np.random.default_rng(3), (D, 5, 3))


def spec_of(lower: list[float], upper: list[float], outputs: int = 3) -> Spec:
    names = [f"X_{i}" for i in range(len(lower))] + [f"Y_{i}" for i in range(outputs)]
    text = "".join(f"(declare-const {name} Real)" for name in names)
    for i, (low, high) in enumerate(zip(lower, upper, strict=True)):
        text += f"(assert (<= {low!r} X_{i} {high!r}))"
    return parse_vnnlib(f"{text}(assert (<= Y_0 0))", "some/place/mine.vnnlib.gz")


class TestQueries:
    def test_boxes_take_the_networks_shape_in_row_major_order(self) -> None:
        network = random_conv(np.random.default_rng(3), channels=2, side=6)
        lower = [float(i) for i in range(72)]
        (query,) = queries(spec_of(lower, lower), network)
        assert query.name == "mine"
        box = query.region
        assert isinstance(box, Box)
        assert box.lower.shape == network.input_shape == (2, 6, 6)
        assert box.lower[1, 2, 3] == 36 + 2 * 6 + 3

    def test_counts_are_named(self, network: Network) -> None:
        with pytest.raises(SpecError, match=r"mine.* speaks of 3 inputs \(X\), but .* has 4"):
            queries(spec_of([0.0] * 3, [1.0] * 3), network)
        with pytest.raises(SpecError, match=r"mine.* speaks of 2 outputs \(Y\), but .* has 3"):
            queries(spec_of([0.0] * D, [1.0] * D, outputs=2), network)

    def test_several_cases_are_told_apart(self, data_path: Callable[[str], Path]) -> None:
        folder = data_path("vnncomp/acasxu")
        spec = load_vnnlib(folder / "vnnlib" / "prop_6.vnnlib.gz")
        network = load(folder / "onnx" / "ACASXU_run2a_1_1_batch_2000.onnx.gz")
        found = queries(spec, network)
        assert [query.name for query in found] == ["prop_6#1", "prop_6#2"]
        assert [query.name for query in queries(spec, network, "x")] == ["x#1", "x#2"]
        for query, case in zip(found, spec.cases, strict=True):
            assert isinstance(query.region, Box)
            assert query.region.lower.shape == network.input_shape
            np.testing.assert_array_equal(query.region.lower.reshape(-1), case.box.lower)

    def test_bound_beyond_float32(self, network: Network) -> None:
        with pytest.raises(SpecError, match=r"X_2 has a bound beyond the range of float32"):
            queries(spec_of([0.0] * D, [1.0, 1.0, 1e39, 1.0]), network)
        most = float(np.finfo(np.float32).max)
        assert queries(spec_of([-most] * D, [most] * D), network)


single = st.floats(-100, 100, width=32).map(float)
double = st.floats(-100, 100)
#: Points, intervals narrower than the spacing of float32, ends that are or are not float32.
intervals = st.one_of(
    st.tuples(double, double),
    st.tuples(single, single),
    double.map(lambda x: (x, x)),
    single.map(lambda x: (x, x)),
    st.tuples(double, st.floats(0, 1e-7)).map(lambda p: (p[0], p[0] * (1 + p[1]))),
    single.map(lambda x: (x, float(np.nextafter(x, np.inf)))),
    single.map(lambda x: (float(np.nextafter(x, np.inf)), float(np.nextafter(x, -np.inf)))),
    # As published files write float32 numbers: the shortest decimals that read back.
    single.map(lambda x: (float(str(np.float32(x))), float(str(np.float32(x))))),
).map(lambda pair: (min(pair), max(pair)))


class TestFloat32Edges:
    @settings(max_examples=200, deadline=None, derandomize=True)
    @given(pairs=st.lists(intervals, min_size=D, max_size=D))
    def test_the_region_holds_every_point_that_is_accepted(
        self, network: Network, pairs: list[tuple[float, float]]
    ) -> None:
        lower, upper = (list(side) for side in zip(*pairs, strict=True))
        spec = spec_of(lower, upper)
        written = spec.cases[0].box
        (query,) = queries(spec, network)
        region = query.region
        assert isinstance(region, Box)
        assert written.lower.tolist() == lower and written.upper.tolist() == upper
        for place, (low, high) in enumerate(pairs):
            ends = np.array([low, high, (low + high) / 2]).astype(np.float32)
            around = np.concatenate(
                [
                    ends,
                    np.nextafter(ends, np.float32(np.inf)),
                    np.nextafter(ends, -np.float32(np.inf)),
                ]
            )
            inside = [x for x in around if low <= float(x) <= high]
            accepted = [x for x in around if accepts(query.region, place, x)]
            assert accepted == [x for x in around if accepts(written, place, x)]
            # No tolerance where the interval has a float32 number; the nearest one where not.
            nearest = {ends[2]} if not inside else set(inside)
            assert set(accepted) == nearest
            assert all(region.lower[place] <= x <= region.upper[place] for x in accepted)
            if inside:
                assert (region.lower[place], region.upper[place]) == (low, high)

    def test_a_fixed_input_of_one_tenth(self, network: Network) -> None:
        (query,) = queries(spec_of([0.1] * D, [0.1] * D), network)
        point = np.full(D, 0.1, np.float32)
        assert contains(query.region, point)
        for beside in (np.nextafter(point, np.float32(1)), np.nextafter(point, np.float32(0))):
            assert not contains(query.region, beside)
        assert isinstance(query.region, Box)
        assert (query.region.lower == 0.1).all()
        assert (query.region.upper == np.float64(np.float32(0.1))).all()


def accepts(box: Box | object, place: int, value: np.float32) -> bool:
    """True iff a point of the box with this one entry counts as inside."""
    assert isinstance(box, Box)
    return contains(
        Box(box.lower[place : place + 1], box.upper[place : place + 1]), np.array([value])
    )


class TestSpec:
    def test_refuses_what_does_not_fit(self) -> None:
        good = spec_of([0.0], [1.0])
        with pytest.raises(SpecError, match="at least one case"):
            Spec((), 1, 3)
        with pytest.raises(SpecError, match=r"case 0 has a box of shape \(1,\) and 3 outputs"):
            Spec(good.cases, 2, 3)
        with pytest.raises(SpecError, match="wanted \\(1,\\) and 2"):
            Spec((Case(good.cases[0].box, good.cases[0].prop),), 1, 2)


class TestInstances:
    def put(self, folder: Path, text: str) -> Path:
        path = folder / "instances.csv"
        path.write_text(text)
        return path

    def test_plain_and_with_header(self, tmp_path: Path) -> None:
        plain = load_instances(self.put(tmp_path, "onnx/a.onnx, p/b.vnnlib ,30\n\nc,d,1.5,extra\n"))
        assert [(i.onnx, i.vnnlib, i.timeout, i.expected) for i in plain] == [
            (tmp_path / "onnx/a.onnx", tmp_path / "p/b.vnnlib", 30.0, None),
            (tmp_path / "c", tmp_path / "d", 1.5, None),
        ]
        text = "\ufefftimeout,verdict,onnx,note,vnnlib\r\n9,sat,a,,b\r\n8,,c,n,d\r\n"
        (first, second) = load_instances(self.put(tmp_path, text))
        assert (first.onnx, first.vnnlib, first.timeout) == (tmp_path / "a", tmp_path / "b", 9.0)
        assert (first.expected, second.expected) == ("sat", None)

    def test_gz_comes_and_goes(self, tmp_path: Path) -> None:
        for name in ("a.onnx.gz", "b.vnnlib", "both", "both.gz"):
            (tmp_path / name).touch()
        text = "a.onnx,b.vnnlib.gz,1\nboth,both.gz,1\nno,no.gz,1\n"
        names = [(i.onnx.name, i.vnnlib.name) for i in load_instances(self.put(tmp_path, text))]
        assert names == [("a.onnx.gz", "b.vnnlib"), ("both", "both.gz"), ("no", "no.gz")]

    def test_absolute_paths_stay(self, tmp_path: Path) -> None:
        (instance,) = load_instances(self.put(tmp_path, "/x/a.onnx,/x/b.vnnlib,1\n"))
        assert instance.onnx == Path("/x/a.onnx")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "holds no instance"),
            ("onnx,vnnlib,timeout\n", "holds no instance"),
            ("a,b,3\na,b\n", "instances.csv:2: a row needs onnx,vnnlib,timeout"),
            ("a,,3\n", "instances.csv:1: a row needs onnx,vnnlib,timeout"),
            ("a,b,3\na,b,soon\n", "instances.csv:2: timeout 'soon' is not a positive"),
            ("a,b,-1\n", "timeout '-1' is not a positive"),
            ("a,b,0\n", "timeout '0' is not a positive"),
            ("a,b,nan\n", "timeout 'nan' is not a positive"),
        ],
    )
    def test_bad_lists(self, tmp_path: Path, text: str, message: str) -> None:
        with pytest.raises(SpecError, match=message):
            load_instances(self.put(tmp_path, text))

    def test_no_list(self, tmp_path: Path) -> None:
        with pytest.raises(SpecError, match="no such file"):
            load_instances(tmp_path / "absent.csv")
        (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe")
        with pytest.raises(SpecError, match="not a text file"):
            load_instances(tmp_path / "bytes.csv")


class TestResults:
    def test_witness_is_written_exactly(self, rng: np.random.Generator) -> None:
        x = (rng.normal(size=(2, 3)) * 10.0 ** rng.integers(-30, 30, (2, 3))).astype(np.float32)
        y = np.array([0.1, -0.0, 1e-45], np.float32)
        witness = Witness(x, y, y.astype(np.float64), -1.0, -1.0, True)
        text = write_result("sat", witness)
        assert text.startswith("sat\n((X_0 ")
        assert text.endswith("))\n")
        assert text.count("(") == text.count(")") == 1 + 6 + 3
        pairs = re.findall(r"\(([XY]_\d+) (\S+?)\)", text)
        assert [name for name, _ in pairs] == [f"X_{i}" for i in range(6)] + ["Y_0", "Y_1", "Y_2"]
        values = np.array([float(value) for _, value in pairs])
        np.testing.assert_array_equal(values, [*x.reshape(-1).astype(float), *y.astype(float)])
        assert len(text.splitlines()) == 1 + 9

    def test_words(self) -> None:
        assert write_result("unsat") == "unsat\n"
        assert result_word(Verdict.VERIFIED) == "unsat"
        assert result_word(Verdict.FALSIFIED) == "sat"
        assert result_word(Verdict.UNKNOWN, Reason.TIME) == "timeout"
        assert result_word(Verdict.UNKNOWN, Reason.NUMERICAL) == "unknown"

    def test_misuse(self) -> None:
        with pytest.raises(OptionError, match="not 'holds'"):
            write_result("holds")
        with pytest.raises(OptionError, match="needs its witness"):
            write_result("sat")
