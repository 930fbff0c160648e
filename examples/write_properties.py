"""Write the VNN-LIB properties of this folder: two held-out digits, eps 0.1.

python examples/write_properties.py
"""

from __future__ import annotations

from pathlib import Path

from closegap.data import digits_split
from closegap.specs.property import robustness_property
from closegap.specs.region import Box, bounding_box, lp_ball
from closegap.specs.vnnlib import Case, Spec, write_vnnlib

__all__ = ["main"]

EPS = 0.1
#: Positions among the held-out digits: one can be broken, the other not.
CHOSEN = (11, 13)
MODEL = "../src/closegap/demo/digits_cnn.onnx"
SECONDS = 20


def main(folder: Path) -> None:
    """Write the properties and the list that names them."""
    digits = digits_split().held_out
    rows = []
    for position in CHOSEN:
        box = bounding_box(lp_ball(digits.images[position], EPS))
        label = int(digits.labels[position])
        case = Case(
            Box(box.lower.reshape(-1), box.upper.reshape(-1)), robustness_property(label, 10)
        )
        words = f"; Held-out digit {position}, a {label}: can another class win within {EPS}?\n"
        name = f"digit_{position}.vnnlib"
        (folder / name).write_text(words + write_vnnlib(Spec((case,), 64, 10)), encoding="utf-8")
        rows.append(f"{MODEL},{name},{SECONDS}\n")
    (folder / "digits.csv").write_text("".join(rows), encoding="utf-8")


if __name__ == "__main__":
    main(Path(__file__).parent)
