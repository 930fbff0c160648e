"""Batches follow the work a domain takes; the deadline follows the time that passes."""

from __future__ import annotations

import math
import time

import pytest

from closegap.verify.bab.pace import Pace, tree_pace


def test_a_busy_machine_leaves_the_batch_and_a_near_deadline_shrinks_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = {"elapsed": 0.0, "own": 0.0}
    monkeypatch.setattr(time, "monotonic", lambda: now["elapsed"])
    pace = Pace(8, clock=lambda: now["own"])
    assert pace.batch(1e9) == 8  # nothing is known yet
    pace.begin()
    now.update(elapsed=4.0, own=0.1)
    pace.end(4)  # one second a domain, a fortieth of it our own
    assert pace.batch(1e9) == 8
    assert pace.batch(24.0) == 3  # a quarter of what is left; each makes two
    assert pace.batch(0.1) == 1


def test_slow_steps_count_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    pace = Pace(64, clock=lambda: now[0])
    for seconds, batch in ((0.01, 25), (0.25, 1), (0.01, 1)):
        pace.begin()
        now[0] += seconds
        pace.end(1)
        assert pace.batch(1e9) == batch
    assert pace.each == pytest.approx(0.13)


def test_only_the_deadline_makes_steps_of_trees_small(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "thread_time", lambda: 0.0)
    pace = tree_pace(64)
    pace.begin()
    now[0] += 0.5
    pace.end(1)
    for remaining, batch in ((1.0, 1), (12.0, 3), (100.0, 25), (math.inf, 64)):
        assert pace.batch(remaining) == batch
