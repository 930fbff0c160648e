"""The page of distance queries, and the PNG files beside it."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from distance_runs import NAMES, distance_run, make_distance, misclassified, missed, nowhere
from numpy.typing import NDArray
from page_checks import read_page
from PIL import Image

from closegap.core.errors import OptionError
from closegap.report import ReportOptions, render_distances, sheet, write, write_pictures
from closegap.report.figures.spark import bracket_spark, draw_spark
from closegap.report.lettering import LINE, Line, lettered
from closegap.report.pictures import change
from closegap.report.sections.nearness import distance_name
from closegap.store import BracketEvent, RunStore


def test_every_image_shows_its_distances_side_by_side() -> None:
    header, records = distance_run()
    text = render_distances(header, records)
    page = read_page(text)
    assert "Least distances: 6 of 13 brackets closed" in page.text
    assert text.count('<article class="card"') == 5
    assert text.count('class="spark"') == 4 * len(NAMES)
    assert text.count('alt="the clean image"') == 4  # once an image
    assert text.count('alt="the witness"') == 4 * len(NAMES)
    assert "no witness to show" in page.text
    assert "ℓ1+TV, kappa 0.1, of image" in page.text
    assert "[0.16, 0.16]" in page.text  # l2: 64 pixels by 0.02
    assert render_distances(header, records) == text


def test_that_none_exists_is_said_and_is_not_that_none_was_found() -> None:
    header, _ = distance_run()
    text = render_distances(header, [nowhere(), make_distance(1, "l2")])
    proved = read_page(text).text
    assert "Least distances: 2 of 2 brackets closed" in proved
    assert "none exists: all of [0, 1] keeps the label" in proved and "none exists 1" in proved
    assert "no counterexample in [0, 1] at all, as is proved" in proved
    (row,) = re.findall(r'<tr><th scope="row">ℓ2</th>(.*?)</tr>', text)
    assert re.findall("<td>(.*?)</td>", row)[:6] == ["2", "1", "1", "2", "0.16", "0.16"]
    unknown = read_page(render_distances(header, [missed()])).text
    assert "0 of 1 brackets closed" in unknown and "[0, ∞]" in unknown
    assert "as is proved" not in unknown and "none exists: all" not in unknown


def test_misclassified_images_have_no_part_in_medians() -> None:
    header, _ = distance_run()
    wrong = [misclassified(8), misclassified(9)]
    text = render_distances(header, [make_distance(1, "l2"), *wrong])
    page = read_page(text).text.replace("\N{NO-BREAK SPACE}", " ")
    assert "Least distances: 1 of 1 brackets closed" in page
    assert "Left out of this table: 2 queries on images that the network misclassifies" in page
    (row,) = re.findall(r'<tr><th scope="row">ℓ2</th>(.*?)</tr>', text)
    # Images, found, as pictures, closed, ends, their ratio, pixels, PSNR.
    wanted = ["1", "1", "1", "1", "0.16", "0.16", "1", "64", "31"]
    assert re.findall("<td>(.*?)</td>", row)[:9] == wanted
    assert "misclassified 2" in page
    alone = read_page(render_distances(header, wrong)).text
    assert "0 of 0 brackets closed" in alone


def test_what_became_of_8_bit_pictures_stands_beside_what_was_found() -> None:
    header, _ = distance_run()
    kept, repaired, lost = (make_distance(index, "l2") for index in range(3))
    assert repaired.rounded is not None
    repaired = dataclasses.replace(repaired, rounded=repaired.rounded + np.uint8(1))
    lost = dataclasses.replace(lost, rounded=None)
    text = render_distances(header, [kept, repaired, lost, missed()])
    (row,) = re.findall(r'<tr><th scope="row">ℓ2</th>(.*?)</tr>', text)
    assert re.findall("<td>(.*?)</td>", row)[:3] == ["4", "3", "2, 1 repaired"]
    page = read_page(text).text
    for words in ("loses the label", "loses the label, repaired", "keeps the label"):
        assert words in page
    assert re.findall(r"<td>(kept|repaired|lost|–)</td><td class", text) == [
        "kept", "repaired", "lost", "–",
    ]  # fmt: skip


def test_a_page_without_records_says_so() -> None:
    header, _ = distance_run()
    page = read_page(render_distances(header, ()))
    assert "Nothing is finished yet" in page.text
    assert "Unfinished run" in page.text


def test_long_runs_show_what_the_options_allow() -> None:
    header, records = distance_run()
    text = render_distances(header, records, ReportOptions(gallery=2))
    assert text.count('<article class="card"') == 2
    assert "the first 2 of 5 images" in read_page(text).text
    assert text.count("<tr data-row=") == len(records)


def test_names_and_notes_are_never_read_as_html() -> None:
    header, _ = distance_run()
    evil = "<img src=x onerror='document.title=1'>"
    record = dataclasses.replace(
        make_distance(), distance=evil, detail=evil, options={evil: evil}, counts={evil: 1}
    )
    page = read_page(render_distances(header, [record]))
    assert evil in page.text
    assert not [1 for tag, name, value in page.attributes if tag == "img" and value == "x"]


def test_a_store_of_distances_becomes_this_page(tmp_path: Path) -> None:
    header, records = distance_run()
    with RunStore.create_or_resume(tmp_path / "run.db", header) as store:
        for record in records:
            store.add_distance(record)
    place = write(tmp_path / "run.db", tmp_path / "out.html")
    assert place.read_text(encoding="utf-8") == render_distances(header, records)


def test_the_bracket_is_drawn_as_steps_that_never_cross() -> None:
    events = (
        BracketEvent(0.0, "", 0.0, math.inf),
        BracketEvent(0.5, "", 0.1, 0.8),
        BracketEvent(1.0, "", 0.3, 0.4),
    )
    spark = bracket_spark(events, 2.0)
    assert spark is not None
    assert spark.seconds == (0.01, 0.5, 1.0, 2.0)
    svg = draw_spark(spark)
    upper, lower = (
        [tuple(map(float, point.split(","))) for point in points.split()]
        for points in re.findall(r'<polyline class="[a-z-]+" points="([^"]+)"', svg)
    )
    assert [x for x, _ in upper] == [x for x, _ in lower] == sorted(x for x, _ in upper)
    assert all(top <= bottom for (_, top), (_, bottom) in zip(upper, lower, strict=True))
    assert upper[0][0] == 6.0 and upper[-1][0] == 234.0
    assert bracket_spark((), 1.0) is None


@pytest.mark.parametrize("spent", [0.0, 0.5])
def test_a_bracket_of_one_step_is_drawn(spent: float) -> None:
    spark = bracket_spark((BracketEvent(0.5, "", 0.0, 0.0),), spent)
    assert spark is not None
    assert "nan" not in draw_spark(spark)


def test_changes_of_colour_pictures_lie_around_grey() -> None:
    clean = np.full((4, 4, 3), 0.5, dtype=np.float32)
    witness = clean.copy()
    witness[1, 2] += np.array([0.1, -0.1, 0.05], dtype=np.float32)
    shown = change(clean, witness, 0.1)
    assert (shown[0, 0] == 128).all()
    assert shown[1, 2].tolist() == [255, 0, 191]
    with pytest.raises(ValueError, match="positive"):
        change(clean, witness, 0.0)


def test_png_files_hold_the_pictures(tmp_path: Path) -> None:
    records = [make_distance(7, name) for name in NAMES]
    unrounded = dataclasses.replace(make_distance(7, "l0"), rounded=None)
    written = write_pictures(tmp_path, [*records, missed(7), unrounded])
    names = [place.name for place in written]
    assert names[0] == "00007_0_clean.png"
    assert names[1:3] == [
        "00007_0_l2_to_1_at_0.16_witness.png",
        "00007_0_l2_to_1_at_0.16_change.png",
    ]
    assert names[-1] == "00007_0_sheet.png"
    assert "00007_0_l0_to_1_at_0.4_witness_not_rounded.png" in names
    assert sorted(names) == sorted(place.name for place in tmp_path.iterdir())
    kept = np.asarray(Image.open(written[1]))
    assert records[0].rounded is not None
    np.testing.assert_array_equal(kept, records[0].rounded[0])
    with Image.open(written[-1]) as sheet:
        mode, size = sheet.mode, sheet.size
    assert mode == "RGB"
    assert size == (530, 12 + 15 + 4 * (3 * 15 + 8 * 21 + 18) + 2 * 15 + 12)


def test_rows_of_a_sheet_say_what_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[Line] = []

    def kept(height: int, width: int, lines: Sequence[Line]) -> NDArray[np.uint8]:
        said.extend(lines)
        return lettered(height, width, lines)

    monkeypatch.setattr(sheet, "lettered", kept)
    lost = dataclasses.replace(make_distance(7, "l1+tv"), rounded=None)
    records = [make_distance(7, "l2"), lost, missed(7, "l1")]
    paper = np.asarray(Image.open(write_pictures(tmp_path, records)[-1]))
    strong = [line.text for line in said if line.strong]
    assert strong[0] == "Image 7, class 0: clean, witness, change (purple darker, orange brighter)"
    assert strong[1:] == ["ℓ2 → class 1", "ℓ1+TV, kappa 0.1, of image → class 1", "ℓ1"]
    plain = [line.text for line in said if not line.strong]
    assert plain[0] == "between 0.16 and 0.16, closed; as an 8-bit picture it loses the label"
    assert plain[1] == "pixels changed 64; PSNR 37 dB"
    assert "as an 8-bit picture it keeps the label" in plain[2]
    assert plain[-1] == "between 0 and ∞, open; no witness was found"
    for line in said:  # in its place on the paper, and clear of the pictures
        strip = paper[line.top : line.top + LINE, line.left :]
        assert strip.min() < 100 and (strip[:, 510:] == 255).all()


def test_what_is_on_is_named_and_what_is_off_is_not() -> None:
    options: dict[str, object] = {"kappa": 0.5, "isotropic": True, "outright": False}
    record = dataclasses.replace(make_distance(0, "l1+tv"), options=options)
    assert distance_name(record) == "ℓ1+TV, kappa 0.5, isotropic"


def test_the_page_says_what_its_metrics_are() -> None:
    text = read_page(render_distances(*distance_run())).text
    assert "Percent of the changed entries" in text and "did not change" in text


@pytest.mark.parametrize(("shape", "wide"), [((1, 4, 28), 530), ((3, 300, 300), 6 + 3 * 306)])
def test_sheets_of_other_shapes(tmp_path: Path, shape: tuple[int, ...], wide: int) -> None:
    written = write_pictures(tmp_path, [make_distance(7, shape=shape)])
    with Image.open(written[-1]) as paper:
        assert paper.size[0] == wide


def test_png_files_of_what_is_no_picture(tmp_path: Path) -> None:
    assert write_pictures(tmp_path, [missed(3), make_distance(3, shape=(1, 2, 50, 1))]) == ()
    assert write_pictures(tmp_path, []) == ()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="cannot be written"):
        write_pictures(tmp_path / "no such folder", [make_distance()])
