"""What the tests' type checker notices."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
from beartype.roar import BeartypeCallHintViolation

import typechecking
from closegap.specs.objectives import L1Distance

_MODULE = """
from __future__ import annotations
from dataclasses import dataclass
from typing import TYPE_CHECKING
import numpy as np
from jaxtyping import Float
if TYPE_CHECKING:
    from nowhere import Unknown

def scaled(vector: Float[np.ndarray, "N"], by: float) -> Float[np.ndarray, "N"]:
    def inner(value: int) -> str:
        return value
    return inner(vector * by)[: 3]

def halves(rows: Float[np.ndarray, "B N"], weights: Float[np.ndarray, "B"]) -> int:
    return len(rows)

def lenient(thing: Unknown) -> int:
    return thing

@dataclass(frozen=True)
class Pair:
    low: Float[np.ndarray, "N"]
    high: Float[np.ndarray, "N"]

    def widest(self) -> int:
        return float((self.high - self.low).max())

    @property
    def size(self) -> str:
        return len(self.low)

    @classmethod
    def of(cls, size: int) -> Pair:
        return cls(np.zeros(size), np.ones(size))
"""


def test_types_and_shapes_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "checked_sample.py").write_text(_MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    typechecking.install("checked_sample")
    sample = importlib.import_module("checked_sample")
    one, two, three = (np.zeros(size) for size in (1, 2, 3))

    assert len(sample.scaled(three, 2)) == 3  # an int for a float; functions within are left out
    assert sample.halves(np.zeros((2, 3)), two) == 2
    assert sample.lenient(4) == 4
    assert len(sample.Pair.of(2).low) == 2
    for wrong in (
        lambda: sample.scaled(np.zeros(5), 1.0),  # hands back 3 of them
        lambda: sample.scaled(three, "2"),
        lambda: sample.scaled(np.zeros(3, dtype=int), 2.0),
        lambda: sample.scaled(np.zeros((3, 1)), 2.0),
        lambda: sample.halves(np.zeros((2, 3)), three),
        lambda: sample.lenient("4"),
        lambda: sample.Pair(one, two),
        lambda: sample.Pair(one, one).widest(),
        lambda: sample.Pair(one, one).size,
        lambda: sample.Pair.of(2.5),
    ):
        with pytest.raises(BeartypeCallHintViolation):
            wrong()


def test_the_package_is_checked() -> None:
    with pytest.raises(BeartypeCallHintViolation, match="weights"):
        L1Distance(np.ones((2, 2)))
    with pytest.raises(RuntimeError, match="imported before"):
        typechecking.install("closegap")
