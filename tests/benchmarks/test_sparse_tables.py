"""The arithmetic of the tables and figures of least distances."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

from closegap.specs.objectives import L2Distance
from sparse import profile_of, table_rows
from sparse_runs import Outcome, cpu_seconds


def outcome(
    method: str, index: int, cpu: float, *, closed: bool = True, upper: float = 2.0
) -> Outcome:
    lower = upper if closed else 0.0
    return Outcome("net", "l1", method, index, lower, upper, closed, 10, 2 * cpu, cpu, 60.0)


@pytest.fixture
def outcomes() -> list[Outcome]:
    """The paper's closes two of three; ours is 2 and 8 times as fast there."""
    return [
        outcome("paper", 0, 2.0),
        outcome("paper", 1, 8.0),
        outcome("paper", 2, 30.0, closed=False),
        outcome("ours", 0, 1.0),
        outcome("ours", 1, 1.0),
        outcome("ours", 2, 3.0),
    ]


def test_ratios_are_geometric_means_over_what_both_close(outcomes: list[Outcome]) -> None:
    paper, ours = table_rows(outcomes)
    assert paper[:2] == ["net, l1", "paper"] and ours[1] == "ours"
    assert (paper[5], ours[5]) == ("1 of 3", "0 of 3")
    assert (paper[7], ours[7]) == ("1.00", "4.00")
    assert (paper[8], ours[8]) == ("2", "2")
    assert paper[2] == "26.67"  # 4, 16 and the limit of 60 seconds
    assert ours[6] == f"{1000 * 5 / 30:.2f}"


def test_brackets_that_exclude_each_other_are_counted(outcomes: list[Outcome]) -> None:
    outcomes[3] = outcome("ours", 0, 1.0, upper=1.5)  # the paper's proved 2
    paper, ours = table_rows(outcomes)
    assert (paper[9], ours[9]) == ("0", "1")


def test_profiles_count_what_any_method_closed(outcomes: list[Outcome]) -> None:
    assert profile_of(outcomes, "ours") == ([1.0, 1.0, 1.0], 3)
    assert profile_of(outcomes, "paper") == ([2.0, 8.0], 3)
    assert profile_of(outcomes, "none") == ([], 3)


def test_processor_seconds_grow_with_work() -> None:
    before = cpu_seconds()
    end = time.process_time() + 0.05
    total = 0.0
    while time.process_time() < end:
        total += float(L2Distance().value(np.zeros(4), np.ones((1000, 4))).sum())
    assert total > 0
    assert 0.04 < cpu_seconds() - before < math.inf
