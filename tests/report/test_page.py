"""The page: sound, self-contained, escaped, honest at its edges."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from page_checks import read_page
from report_runs import make_header, make_pictures, make_record

from closegap.core.errors import OptionError, StoreError
from closegap.core.verdict import Verdict
from closegap.report import ReportOptions, render, write
from closegap.report.figures import FIGURES
from closegap.report.sections import SECTIONS, SectionView
from closegap.report.sections.outputs import margin, softmax
from closegap.store import RunStore
from closegap.store.records import BracketEvent, Record, RunHeader

V, F, U = Verdict.VERIFIED, Verdict.FALSIFIED, Verdict.UNKNOWN
Run = tuple[RunHeader, tuple[Record, ...]]


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes most of a page's time; for tests of everything else."""
    for name in tuple(FIGURES):
        monkeypatch.delitem(FIGURES, name)


def _words(page: str) -> str:
    """The page's text with every run of white space made one blank."""
    return " ".join(read_page(page).text.split())


def _heading(page: str) -> str:
    found = re.search(r"<h1[^>]*>(.*?)</h1>", page)
    assert found
    return " ".join(found[1].split())


def test_a_whole_run(digits_run: Run) -> None:
    header, records = digits_run
    kinds = {v: sum(r.verdict is v for r in records) for v in Verdict}
    assert all(kinds.values())  # or the run shows too little
    text = render(header, records)
    page = read_page(text)
    assert text.count("<tr data-row=") == 60
    assert text.count('<article class="card"') == kinds[F]
    assert sum(name == "src" for _, name, _ in page.attributes) >= 2 * kinds[F]
    assert len(text) < 600_000


def test_the_same_records_give_the_same_bytes(digits_run: Run) -> None:
    assert render(*digits_run) == render(*digits_run)


def test_policy_names_exactly_what_the_page_holds(digits_run: Run) -> None:
    page = read_page(render(*digits_run))
    policy = next(v for t, n, v in page.attributes if t == "meta" and "default-src" in v)
    for kind, text in (("style", page.elements["style"]), ("script", page.elements["last script"])):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy and "http" not in policy


@pytest.mark.usefixtures("no_figures")
def test_everything_is_escaped(rng: np.random.Generator) -> None:
    nasty = "</script><script>alert(1)</script>\"'&<b>\x00"
    header = make_header(
        model=nasty,
        data=nasty,
        command=nasty,
        settings={nasty: nasty},
        versions={nasty: nasty, "closegap": nasty},
        machine={nasty: nasty},
        class_names=(nasty,) * 10,
        engines=(nasty,),
        started=nasty,
        total=3,
    )
    event = BracketEvent(1.0, nasty, 0.0, 1.0)
    fields = {
        "name": nasty,
        "target": nasty,
        "detail": nasty,
        "engine": nasty,
        "engine_seconds": {nasty: 1.0},
        "counts": {nasty: 3},
        "history": (event,),
    }
    records = [
        make_record(0, F, pictures=make_pictures((1, 8, 8), rng), **fields),
        make_record(1, U, **fields),
        make_record(2, F, pictures=make_pictures((5,), rng), **{**fields, "label": None}),
    ]
    text = render(header, records)
    page = read_page(text)
    assert text.count("<script") == 2  # the page's data and the page's own
    assert text.count("</script") == 2
    assert "<b>" + '"' not in text and "<b>�" not in text
    assert nasty.replace("\x00", "�") in page.text
    details = json.loads(page.elements["script"])
    assert details[1]["detail"] == nasty


_PICTURES = ((1, 28, 28), (3, 32, 32), (32, 32, 3), (784,), (784, 1), (64,))
_NO_PICTURES = ((5,), (1, 1, 5), (100, 3))


@pytest.mark.parametrize("shape", _PICTURES + _NO_PICTURES)
@pytest.mark.usefixtures("no_figures")
def test_every_input_shape(shape: tuple[int, ...], rng: np.random.Generator) -> None:
    record = make_record(0, F, label=0, pictures=make_pictures(shape, rng))
    text = render(make_header(total=1), [record])
    pictured = shape in _PICTURES
    assert text.count('src="data:image/png') == (3 if pictured else 0)
    words = _words(text)
    assert ("difference, ±0.1" in words) == pictured
    if not pictured:
        assert "input clean witness difference" in words
    assert ("260 more are left out" in words) == (shape == (100, 3))


@pytest.mark.usefixtures("no_figures")
def test_values_outside_the_unit_interval_say_their_range(rng: np.random.Generator) -> None:
    pictures = make_pictures((1, 8, 8), rng)
    shifted = replace(pictures, clean=pictures.clean * 4 - 2, witness=pictures.clean * 4 - 2.5)
    text = _words(render(make_header(eps=None, norm=""), [make_record(0, F, pictures=shifted)]))
    assert re.search(r"clean, −2\.\d+ to 1\.\d+ witness difference, ±0\.5", text)


@pytest.mark.usefixtures("no_figures")
def test_misclassified_images_show_one_picture(rng: np.random.Generator) -> None:
    pictures = make_pictures((1, 8, 8), rng, label=4)
    pictures = replace(pictures, witness=pictures.clean, witness_outputs=pictures.clean_outputs)
    text = render(
        make_header(total=1), [make_record(0, F, label=1, engine="clean", pictures=pictures)]
    )
    assert text.count('src="data:image/png') == 1
    assert "No change is needed" in text
    assert "1 misclassified already" in _words(text)


@pytest.mark.usefixtures("no_figures")
def test_confidences_and_margins(rng: np.random.Generator) -> None:
    outputs = np.log(np.array([0.1, 0.2, 0.7])).astype(np.float32)
    np.testing.assert_allclose(softmax(outputs + 900), [0.1, 0.2, 0.7], rtol=1e-4)
    assert margin(np.array([1.0, 3.0, -2.0]), 0) == -2.0
    assert margin(np.array([1.0, 3.0, -2.0]), 1) == 2.0
    pictures = replace(
        make_pictures((1, 8, 8), rng),
        clean_outputs=outputs,
        witness_outputs=outputs[::-1].copy(),
        witness_outputs_float64=np.array([0.0, -1.0, -0.5]),
    )
    words = _words(render(make_header(), [make_record(0, F, label=2, pictures=pictures)]))
    assert "0 10.0 % 70.0 % 1 20.0 % 20.0 % 2 70.0 % 10.0 %" in words
    assert "clean margin +1.253 margin, float32 −1.946 margin, float64 −0.5" in words


@pytest.mark.usefixtures("no_figures")
def test_many_classes_keep_the_label_and_the_likeliest(rng: np.random.Generator) -> None:
    pictures = make_pictures((1, 8, 8), rng, classes=43, label=0)
    words = _words(render(make_header(), [make_record(0, F, label=17, pictures=pictures)]))
    assert "33 more outputs are left out" in words
    assert re.search(r"\b17 \d+\.\d %", words)


def test_properties_show_raw_outputs(rng: np.random.Generator) -> None:
    header = make_header(kind="instances", eps=None, norm="", model="", model_digest="", total=2)
    records = [
        make_record(0, V, label=None, name="acasxu/vnnlib/prop_1.vnnlib"),
        make_record(
            1, F, label=None, name="acasxu/vnnlib/prop_2.vnnlib.gz", target="y0 <= y1",
            pictures=make_pictures((1, 1, 5), rng, classes=5),
        ),
    ]  # fmt: skip
    text = render(header, records)
    words = _words(text)
    assert _heading(text) == "50.0 % of the properties hold"
    assert "1: acasxu/vnnlib/prop_2" in words
    assert "output start witness y0" in words
    assert "All properties" in words and "By family" in words
    assert "unsat" in words and "Robust accuracy" not in words
    assert "label" not in re.findall(r"data-kind=.*?>(.*?)<", text)


@pytest.mark.parametrize(
    ("verdicts", "total", "expected"),
    [
        ([V, V, F], 3, "Robust accuracy: 66.7 %"),
        ([V, U, F], 3, "Robust accuracy: between 33.3 % and 66.7 %"),
        ([V, V, U], 3, "Robust accuracy: between 66.6 % and 100.0 %"),
        ([U, U], 2, "Robust accuracy: between 0.0 % and 100.0 %"),
        ([F], 1, "Robust accuracy: 0.0 %"),
        ([V], 1, "Robust accuracy: 100.0 %"),
        ([V, U], 8, "Robust accuracy so far: between 50.0 % and 100.0 %"),
        ([V], 8, "Robust accuracy so far: 100.0 %"),
        ([], 8, "Nothing is finished yet"),
    ],
)
@pytest.mark.usefixtures("no_figures")
def test_headline(verdicts: list[Verdict], total: int, expected: str) -> None:
    text = render(make_header(total=total), [make_record(i, v) for i, v in enumerate(verdicts)])
    read_page(text)
    assert _heading(text) == expected


@pytest.mark.usefixtures("no_figures")
def test_an_unfinished_run_says_what_holds_for_all_of_it() -> None:
    words = _words(render(make_header(total=8), [make_record(0, V), make_record(1, F)]))
    assert "Unfinished run: 2 of 8 images done." in words
    assert "of all 8, at least 12.5 % and at most 87.5 % are robust" in words


@pytest.mark.usefixtures("no_figures")
def test_infinite_and_missing_numbers() -> None:
    ends = {"lower": -math.inf, "upper": math.inf, "seconds": math.inf}
    records = [
        make_record(0, U, engine="", reason=None, **ends),
        make_record(1, V, lower=math.nan),
    ]
    text = render(make_header(total=2), records)
    assert 'data-v="-Infinity">−∞<' in text
    assert 'data-v="Infinity">∞<' in text
    assert 'data-v="">–<' in text
    assert "1 no reason given" in _words(text)


@pytest.mark.usefixtures("no_figures")
def test_the_gallery_is_bounded_and_says_so(rng: np.random.Generator) -> None:
    records = [make_record(i, F, pictures=make_pictures((1, 8, 8), rng)) for i in range(7)]
    text = render(make_header(total=7), records, ReportOptions(gallery=3))
    assert text.count('<article class="card"') == 3
    assert "the first 3 of 7 falsified" in _words(text)
    assert text.count("<tr data-row=") == 7
    one = render(make_header(total=7), records, ReportOptions(gallery_bytes=1))
    assert one.count('<article class="card"') == 1
    none = render(make_header(total=7), records, ReportOptions(gallery=0))
    assert none.count("data:image/png") == 0
    assert "the first 0 of 7 falsified" in _words(none)


@pytest.mark.usefixtures("no_figures")
def test_falsified_without_pictures_stay_in_the_table() -> None:
    words = _words(render(make_header(total=1), [make_record(0, F)]))
    assert "the first 0 of 1 falsified" in words


@pytest.mark.usefixtures("no_figures")
def test_long_histories_are_cut_and_say_so() -> None:
    history = tuple(BracketEvent(float(i), "bab", float(i), 9.0) for i in range(10))
    text = render(make_header(), [make_record(0, V, history=history)], ReportOptions(history=4))
    detail = json.loads(read_page(text).elements["script"])[0]
    assert detail["earlier"] == 6
    assert [row[2] for row in detail["history"]] == ["6", "7", "8", "9"]


def test_provenance_is_complete(digits_run: Run) -> None:
    header, records = digits_run
    words = _words(render(header, records))
    for value in (
        header.model, header.model_digest, header.data_digest, header.command, header.started,
        *header.versions.values(), *header.machine.values(), *map(str, header.settings),
        "seed 7", "timeout 60 s a query", "ℓ∞, ε = 0.05",
    ):  # fmt: skip
        assert value in words, value


@pytest.mark.usefixtures("no_figures")
def test_a_new_section_is_a_function_and_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def extra(
        header: RunHeader, records: list[Record] | tuple[Record, ...], options: ReportOptions
    ) -> SectionView:
        context = {"command": f"{len(records)} <records>", "groups": {}}
        return SectionView("Sparse <attacks>", "provenance.html.j2", context)

    monkeypatch.setitem(SECTIONS, "sparse", extra)
    text = render(make_header(), [make_record(0)])
    assert 'id="sparse"' in text
    assert "Sparse <attacks> 1 <records>" in _words(text)


def test_options_refuse_negative_limits() -> None:
    with pytest.raises(OptionError, match="gallery is -1"):
        ReportOptions(gallery=-1)


def test_from_a_store_to_a_file(digits_run: Run, tmp_path: Path) -> None:
    header, records = digits_run[0], digits_run[1][:20]
    with RunStore.create_or_resume(tmp_path / "run.db", header) as store:
        for record in records:
            store.add(record)
    place = write(tmp_path / "run.db", tmp_path / "out.html")
    assert place.read_text(encoding="utf-8") == render(header, records)
    assert sorted(p.name for p in tmp_path.iterdir() if "html" in p.name) == ["out.html"]


def test_errors_of_files_are_one_line(digits_run: Run, tmp_path: Path) -> None:
    header, _ = digits_run
    with pytest.raises(StoreError, match="no such file"):
        write(tmp_path / "absent.db", tmp_path / "out.html")
    RunStore.create_or_resume(tmp_path / "run.db", header).close()
    with pytest.raises(OptionError, match="cannot be written") as caught:
        write(tmp_path / "run.db", tmp_path / "absent" / "out.html")
    assert "\n" not in str(caught.value)
    assert sorted(p.suffix for p in tmp_path.iterdir() if p.suffix in (".html", ".part")) == []
