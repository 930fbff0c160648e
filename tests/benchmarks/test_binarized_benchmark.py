"""The benchmark of binarized networks: tied networks, kept answers, figures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from binarized_agreement import Comparison
from binarized_figures import draw
from binarized_records import Agreement, Flip, Lines
from examples import train_bnn


def test_tied_networks_agree_and_tie(tmp_path: Path) -> None:
    recipe = train_bnn.Recipe((12, 10, 9), epochs=1, shift=0)
    path = tmp_path / "tiny.onnx"
    train_bnn.write_onnx(
        train_bnn.train(recipe, train_bnn.split_of("digits").train), (1, 8, 8), path
    )
    asked = Agreement(path.name, False, 100, 600)
    for ties in (False, True):
        found = Comparison(path, ties=ties).count(replace(asked, tied=ties))
        assert found.double == found.single == 600
    assert found.ties > 600


def test_answers_are_kept_and_torn_lines_are_not(tmp_path: Path) -> None:
    path = tmp_path / "flips.jsonl"
    asked = Flip("2x100", 0.1, 3, "fgsm", 2.0)
    Lines(path, Flip).add(replace(asked, flipped=True, seconds=0.5, history=((0.1, 2.0),)))
    with path.open("a") as file:
        file.write('{"size": "2x1')
    again = Lines(path, Flip)
    found = again.get(asked)
    assert found is not None and found.flipped and found.seconds == 0.5
    assert again.get(replace(asked, image=4)) is None


def test_figures_of_what_was_run(tmp_path: Path) -> None:
    answers = [
        Flip(size, eps, image, attack, 2.0, clean=-3.0, objective=1.0 - image, scale=10.0,
             flipped=image == 0, seconds=0.5, history=((0.2, -1.0), (0.5, 1.0 - image)))
        for size in ("2x100", "5x100") for eps in (0.02, 0.1) for image in (0, 1)
        for attack in ("fgsm", "iprop", "milp", "iprop-1")
    ]  # fmt: skip
    written = draw(answers, tmp_path)
    assert {path.stem for path in written} == {"flips", "objective", "over_time", "steps"}
    assert all(path.stat().st_size > 5000 for path in written)
