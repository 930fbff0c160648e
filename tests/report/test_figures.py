"""Figure data against values worked out by hand, and what the renderer makes of them."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from report_runs import make_header, make_record

from closegap.core.verdict import Verdict
from closegap.report.figures import FIGURES, BarFigure, bracket, cactus, engines, groups
from closegap.report.figures.draw import draw
from closegap.report.figures.groups import family
from closegap.store.records import Record

V, F, U = Verdict.VERIFIED, Verdict.FALSIFIED, Verdict.UNKNOWN


def _records() -> list[Record]:
    """Seconds 4, 1, 9, 2; two verified, one falsified, one unknown."""
    return [
        make_record(0, V, seconds=4.0, engine="mip", engine_seconds={"pgd": 1.0, "mip": 3.0}),
        make_record(1, F, seconds=1.0, engine="pgd", engine_seconds={"pgd": 1.0}, label=1),
        make_record(2, U, seconds=9.0, engine="mip", engine_seconds={"pgd": 2.0, "mip": 7.0}),
        make_record(3, V, seconds=2.0, engine="crown", engine_seconds={"crown": 2.0}, label=1),
    ]


def test_cactus_counts_queries_up_to_each_time() -> None:
    figure = cactus(make_header(), _records())
    lines = {line.name: (line.x, line.y) for line in figure.lines}
    assert lines == {
        "decided": ((1.0, 2.0, 4.0), (1.0, 2.0, 3.0)),
        "verified": ((2.0, 4.0), (1.0, 2.0)),
        "falsified": ((1.0,), (1.0,)),
    }
    assert not figure.log_x
    assert figure.summary.startswith("3 of 4 decided")


def test_cactus_uses_a_logarithmic_axis_only_for_wide_and_positive_times() -> None:
    figure = cactus(make_header(), [make_record(0, seconds=0.0), make_record(1, seconds=50.0)])
    assert figure.log_x
    assert figure.lines[0].x == (0.001, 50.0)


def test_bracket_follows_the_share_of_the_queries_so_far() -> None:
    figure = bracket(make_header(), _records())
    upper, lower = figure.lines
    assert upper.x == lower.x == (0.0, 4.0, 5.0, 14.0, 16.0)
    assert lower.y == pytest.approx((0.0, 100.0, 50.0, 100.0 / 3, 50.0))
    assert upper.y == pytest.approx((100.0, 100.0, 50.0, 200.0 / 3, 75.0))


def test_engines_sum_seconds_and_credit_the_engine_that_decided() -> None:
    figure = engines(make_header(engines=("pgd", "crown", "mip")), _records())
    assert figure.categories == ("pgd", "crown", "mip")
    times, decided = figure.panels
    assert times.stacks[0].values == (4.0, 2.0, 10.0)
    assert {s.name: s.values for s in decided.stacks} == {
        "verified": (0.0, 1.0, 1.0),
        "falsified": (1.0, 0.0, 0.0),
    }
    assert decided.labels == ("1", "1", "1")


def test_an_engine_that_only_decided_is_shown_too() -> None:
    figure = engines(make_header(engines=()), [make_record(0, V, engine="clean")])
    assert figure.categories == ("clean",)
    assert figure.panels[0].stacks[0].values == (0.0,)


def test_groups_by_class_with_names() -> None:
    figure = groups(make_header(class_names=("cat", "dog", "owl")), _records())
    assert figure.categories == ("0 cat", "1 dog", "2 owl")
    assert {s.name: s.values for s in figure.panels[0].stacks} == {
        "verified": (1.0, 1.0, 0.0),
        "unknown": (0.0, 0.0, 1.0),
        "falsified": (0.0, 1.0, 0.0),
    }
    assert figure.panels[0].labels == ("1", "2", "1")


def test_groups_by_family_for_properties() -> None:
    names = ["acasxu/vnnlib/prop_1.vnnlib.gz", "vnnlib/vdp_3.vnnlib", "acasxu/vnnlib/prop_2.vnnlib"]
    records = [make_record(i, V, label=None, name=name) for i, name in enumerate(names)]
    figure = groups(make_header(kind="instances"), records)
    assert figure.categories == ("acasxu", "vdp")
    assert figure.panels[0].stacks[0].values == (2.0, 1.0)


def test_the_smallest_of_many_groups_are_put_together() -> None:
    records = [make_record(i, V, label=i % 40) for i in range(70)]
    figure = groups(make_header(), records)
    assert len(figure.categories) == 20
    assert figure.categories[-1] == "all others"
    # Classes 0..29 have two images each, 30..39 one; the 19 largest shown have two.
    assert figure.panels[0].labels == ("2",) * 19 + ("32",)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("acasxu/vnnlib/prop_3.vnnlib.gz", "acasxu"),
        ("vnnlib/mnist-bnn_index0_eps0.0001_target7.vnnlib", "mnist-bnn_index_eps_target"),
        ("prop_0_0.03.vnnlib.gz", "prop"),
        ("C:\\work\\oval21\\p1.vnnlib", "oval21"),
        ("42.vnnlib", "42"),
        ("", "unnamed"),
    ],
)
def test_family(name: str, expected: str) -> None:
    assert family(name) == expected


@pytest.mark.parametrize("name", FIGURES)
def test_drawings_are_deterministic_and_fit_for_a_page(name: str) -> None:
    figure = FIGURES[name](make_header(class_names=("a $x_1$ <b>", "\x00&", "猫")), _records())
    text = draw(figure, "k")
    assert text == draw(figure, "k")
    root = ElementTree.fromstring(text)
    assert root.attrib["role"] == "img"
    assert [child.tag for child in root[:2]] == ["title", "desc"]
    assert (root[0].text, root[1].text) == (figure.title, figure.summary.replace("\x00", "�"))
    assert not re.search(r"style=|#0000|http|<metadata|#fff", text)
    assert all(e.attrib["id"].startswith("k-") for e in root.iter() if "id" in e.attrib)
    roles = {c for e in root.iter() for c in e.attrib.get("class", "").split()}
    assert {"fill-muted", "stroke-verified"} <= roles or {"fill-ink", "fill-verified"} <= roles


def test_bars_are_as_long_as_their_values() -> None:
    figure = engines(make_header(engines=("pgd", "crown", "mip")), _records())
    root = ElementTree.fromstring(draw(figure, "k"))
    paths = [e.attrib["d"] for e in root.iter("path") if e.attrib.get("class") == "fill-time"]
    corners = [[float(x) for x in re.findall(r"[ML] (\S+)", path)] for path in paths]
    widths = [max(xs) - min(xs) for xs in corners]
    assert len(widths) == 3
    assert [w / widths[1] for w in widths] == pytest.approx([2.0, 1.0, 5.0], rel=0.01)


@pytest.mark.parametrize("name", FIGURES)
def test_nothing_is_drawn_of_nothing(name: str) -> None:
    figure = FIGURES[name](make_header(), [])
    assert draw(figure, "k") == ""
    assert figure.empty


def test_a_single_query_of_no_time_can_be_drawn() -> None:
    records = [make_record(0, F, seconds=0.0, engine_seconds={"clean": 0.0})]
    for name, make in FIGURES.items():
        assert draw(make(make_header(), records), name).startswith("<svg")


def test_every_bar_figure_has_a_value_for_each_category() -> None:
    for make in FIGURES.values():
        figure = make(make_header(), _records())
        if isinstance(figure, BarFigure):
            for panel in figure.panels:
                assert len(panel.labels) == len(figure.categories)
                assert all(len(s.values) == len(figure.categories) for s in panel.stacks)
