"""A thread that does jobs: in order, taken back, ended, and left behind."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from closegap.core.worker import Ended, Job, Worker
from closegap.search.frontier import Frontier
from closegap.search.tree import Tree


def test_jobs_are_done_in_order_beside_the_caller() -> None:
    order, worker = list[int](), Worker[int]("test")

    def work(number: int) -> int:
        order.append(number)
        return threading.get_ident()

    jobs = [Job(lambda ended, n=n: work(n)) for n in range(20)]
    for job in jobs:
        worker.give(job)
    done = list[Job[int]]()
    while len(done) < len(jobs):
        worker.wait(10.0)
        done += worker.done()
    assert done == jobs
    assert order == list(range(20))
    assert {job.result for job in jobs} == {worker._thread.ident}
    assert worker.stop(10.0)


def test_a_job_tells_what_it_cost_and_what_it_raised() -> None:
    def work(ended: Ended) -> int:
        until = time.thread_time() + 0.05
        while time.thread_time() < until:
            pass
        raise ValueError("broken")

    job, worker = Job(work), Worker[int]("test")
    worker.give(job)
    worker.wait(10.0)
    assert worker.done() == [job]
    assert job.result is None
    assert isinstance(job.error, ValueError)
    assert 0.05 <= job.seconds < 1.0
    assert worker.alive  # the next job is done
    worker.give(good := Job(lambda ended: 3))
    worker.wait(10.0)
    assert good.result == 3
    assert worker.stop(10.0)


def test_what_was_not_begun_is_taken_back_newest_first() -> None:
    begun, free, worker = threading.Event(), threading.Event(), Worker[bool]("test")

    def work(ended: Ended) -> bool:
        begun.set()
        return free.wait(20.0)

    jobs = [Job(work), *(Job(lambda ended: True) for _ in range(2))]
    for job in jobs:
        worker.give(job)
    assert begun.wait(10.0)
    assert worker.take_back() is jobs[2]
    assert worker.take_back() is jobs[1]
    assert worker.take_back() is None
    free.set()
    assert worker.stop(10.0)
    assert worker.done() == jobs[:1]


def test_a_job_hears_that_it_is_wanted_no_more() -> None:
    begun, worker = threading.Event(), Worker[str]("test")

    def work(ended: Ended) -> str:
        begun.set()
        until = time.monotonic() + 20.0
        while not ended() and time.monotonic() < until:
            time.sleep(0.001)
        return "ended" if ended() else "late"

    worker.give(job := Job(work))
    worker.give(never := Job(work))
    assert begun.wait(10.0)
    assert worker.stop(10.0)
    assert job.result == "ended"
    assert never.result is None


def test_nobody_waits_for_ever() -> None:
    free, worker = threading.Event(), Worker[bool]("test")
    began = time.monotonic()
    worker.wait(0.05)
    worker.give(Job(lambda ended: free.wait(20.0)))
    worker.wait(0.05)
    assert not worker.stop(0.1)
    assert 0.15 < time.monotonic() - began < 5.0
    assert worker.alive
    free.set()
    assert worker.stop(float("inf"))


@pytest.mark.parametrize("count", [2, 9])
@pytest.mark.parametrize("fullness", [0.0, 1.0])
def test_nodes_that_wait_are_not_picked(count: int, fullness: float) -> None:
    tree = Tree()
    tree.add_roots(np.array([-5.0, -4.0, -3.0, -2.0, -1.0]))
    waiting = np.array([4, 0])
    picked = Frontier().pick(tree, count, fullness, waiting)
    wanted = [1, 2, 3] if count == 9 else [2, 3] if fullness else [1, 2]
    assert sorted(picked.tolist()) == wanted
    assert tree.least_lower()[0] == -5.0
    assert not len(Frontier().pick(tree, count, fullness, np.arange(5)))
