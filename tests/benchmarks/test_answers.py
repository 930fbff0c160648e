"""Answers of benchmarks: kept, not asked twice, also behind a line that was cut short."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from answers import Key, answered


@dataclass(frozen=True)
class Asked:
    number: int

    @property
    def key(self) -> Key:
        return (self.number,)


@dataclass(frozen=True)
class Square:
    number: int
    value: int

    @property
    def key(self) -> Key:
        return (self.number,)


def square(asked: Asked) -> Square:
    if asked.number < 0:
        raise KeyboardInterrupt
    return Square(asked.number, asked.number**2)


def test_a_second_run_goes_on_where_the_first_stopped(tmp_path: Path) -> None:
    path, told = tmp_path / "answers.jsonl", list[Square]()
    with pytest.raises(KeyboardInterrupt):
        answered([Asked(1), Asked(2), Asked(-1), Asked(3)], square, Square, path)
    path.write_text(path.read_text() + '{"number": 3, "va')
    tasks = [Asked(3), Asked(2), Asked(3), Asked(1)]
    found = answered(tasks, square, Square, path, say=told.append)
    assert [answer.value for answer in found] == [9, 4, 9, 1]
    assert told == [Square(3, 9)]
    assert answered(tasks, square, Square, path, say=told.append) == found
    assert len(told) == 1
