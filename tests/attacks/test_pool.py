from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from closegap.attacks.patterns import activation_patterns, hamming, pack, phased_nodes, unpack
from closegap.attacks.pool import CandidatePool
from closegap.core.errors import OptionError
from closegap.runtime.torch_network import TorchNetwork
from closegap.testing.networks import random_conv, random_leaky, random_mlp, random_sigmoid


class PlainPool:
    """The insert rule, written out over Python lists."""

    def __init__(self, capacity: int, threshold: int, focus: np.ndarray) -> None:
        self.capacity, self.threshold, self.focus = capacity, threshold, focus
        self.entries: list[tuple[float, tuple[bool, ...], int]] = []

    def offer(self, margin: float, pattern: np.ndarray, name: int) -> None:
        seen = pattern & self.focus
        distances = [sum(np.array(e[1]) & self.focus ^ seen) for e in self.entries]
        near = min(range(len(distances)), key=distances.__getitem__, default=None)
        if near is not None and distances[near] < self.threshold:
            if margin < self.entries[near][0]:
                self.entries.pop(near)
                self.entries.append((margin, tuple(pattern), name))
        elif len(self.entries) < self.capacity:
            self.entries.append((margin, tuple(pattern), name))
        elif margin < self.entries[-1][0]:
            self.entries.pop()
            self.entries.append((margin, tuple(pattern), name))
        self.entries.sort(key=lambda e: e[0])


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**31),
    st.integers(1, 12),
    st.integers(1, 3),
    st.sampled_from([1, 5, 64, 65, 130]),
    st.booleans(),
)
def test_the_insert_rule_is_the_plain_one(
    seed: int, capacity: int, threshold: int, neurons: int, focused: bool
) -> None:
    rng = np.random.default_rng(seed)
    focus = rng.random(neurons) < 0.6 if focused else np.ones(neurons, bool)
    pool, plain = (
        CandidatePool(capacity=capacity, threshold=threshold),
        PlainPool(capacity, threshold, focus),
    )
    if focused:
        pool.focus(focus)
    base = rng.random(neurons) < 0.5
    for name in range(25):
        pattern = base ^ (rng.random(neurons) < min(0.5, 3 / neurons))
        margin = float(rng.normal())
        before = [c.margin for c in pool.best()]
        pool.add(np.full((1, 2), name, np.float32), [margin], pattern[None], engine="a")
        plain.offer(margin, pattern, name)
        after = [c.margin for c in pool.best()]
        assert len(after) >= len(before), "a pool never shrinks"
        assert min(after) <= min([*before, margin]) + 0.0, "the best is never lost"
    got = pool.best()
    assert [(c.margin, tuple(c.pattern), int(c.point[0])) for c in got] == plain.entries
    patterns = {tuple(c.pattern & focus) for c in got}
    assert len(patterns) == len(got) <= capacity
    if len(got):
        fraction = np.mean([c.pattern for c in got], axis=0)
        np.testing.assert_allclose(pool.active_fraction(), fraction)
        np.testing.assert_allclose(pool.commonness(), np.maximum(fraction, 1 - fraction))
        np.testing.assert_array_equal(pool.majority(), fraction >= 0.5)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 200), st.integers(1, 5))
def test_packing_keeps_bits_and_distances(seed: int, neurons: int, count: int) -> None:
    patterns = np.random.default_rng(seed).random((count, neurons)) < 0.5
    words = pack(patterns)
    np.testing.assert_array_equal(unpack(words, neurons), patterns)
    np.testing.assert_array_equal(hamming(words, words[0]), (patterns ^ patterns[0]).sum(axis=1))


@pytest.mark.parametrize("slope", [None, 0.1])
def test_a_pattern_names_the_affine_piece(rng: np.random.Generator, slope: float | None) -> None:
    sizes = [4, 6, 5, 3]
    network = random_mlp(rng, sizes) if slope is None else random_leaky(rng, sizes, slope=slope)
    points = rng.normal(size=(20, 4)).astype(np.float32)
    bits = activation_patterns(TorchNetwork(network), points)
    h = points.astype(np.float64)
    wanted = []
    for node in network.nodes:
        if hasattr(node.op, "weight"):
            z = h @ node.op.weight.T + node.op.bias
            wanted.append(z >= 0)
            h = np.where(z >= 0, z, (slope or 0.0) * z)
    np.testing.assert_array_equal(bits, np.concatenate(wanted[:-1], axis=1))


def test_networks_without_phases_have_empty_patterns(rng: np.random.Generator) -> None:
    network = random_sigmoid(rng, [3, 5, 2])
    assert phased_nodes(network) == ()
    pool = CandidatePool.for_network(TorchNetwork(network))
    points = rng.random((4, 3)).astype(np.float32)
    pool.add(points, [0.3, 0.1, 0.2, 0.4], engine="a")
    assert [c.margin for c in pool.best()] == [0.1]


def test_a_pool_of_a_network_computes_patterns_and_remembers_engines(
    rng: np.random.Generator,
) -> None:
    network = TorchNetwork(random_conv(rng))
    pool = CandidatePool.for_network(network, capacity=5)
    points = rng.random((30, *network.network.input_shape)).astype(np.float32)
    margins = rng.normal(size=30)
    entered = pool.add(points[:20], margins[:20], engine="first")
    pool.add(points[20:], margins[20:], engine="second")
    assert 0 < entered <= 5
    for candidate in pool.best():
        place = int(np.flatnonzero(margins == candidate.margin)[0])
        assert candidate.engine == ("first" if place < 20 else "second")
        np.testing.assert_array_equal(candidate.point, points[place])
        np.testing.assert_array_equal(
            candidate.pattern, activation_patterns(network, points[place][None])[0]
        )
    assert len(pool.best(2)) == 2
    assert pool.best(2)[0].margin == min(margins)


def test_margins_that_are_not_finite_stay_out() -> None:
    pool = CandidatePool()
    points = np.zeros((3, 2), np.float32)
    assert pool.add(points, [np.nan, np.inf, -np.inf], np.eye(3, 4) > 0, engine="a") == 0
    assert len(pool) == 0
    assert pool.commonness().tolist() == [0.5] * 4


def test_focus_merges_entries_that_differ_elsewhere() -> None:
    pool = CandidatePool()
    patterns = np.array([[0, 0, 1], [0, 1, 1], [1, 1, 1]], bool)
    pool.add(np.zeros((3, 1), np.float32), [3.0, 2.0, 1.0], patterns, engine="a")
    assert len(pool) == 3
    pool.focus(np.array([True, False, False]))
    assert [c.margin for c in pool.best()] == [1.0, 2.0]


def test_misuse_is_refused() -> None:
    with pytest.raises(OptionError, match="at least 1"):
        CandidatePool(capacity=0)
    pool = CandidatePool()
    with pytest.raises(ValueError, match="cannot compute patterns"):
        pool.add(np.zeros((1, 2), np.float32), [1.0], engine="a")
    with pytest.raises(ValueError, match="margins of shape"):
        pool.add(np.zeros((1, 2), np.float32), [1.0, 2.0], np.zeros((1, 3), bool), engine="a")
    pool.add(np.zeros((1, 2), np.float32), [1.0], np.zeros((1, 3), bool), engine="a")
    with pytest.raises(ValueError, match="4 neurons, those of the pool 3"):
        pool.add(np.zeros((1, 2), np.float32), [1.0], np.zeros((1, 4), bool), engine="a")


def test_the_pool_owns_its_points() -> None:
    pool = CandidatePool()
    points = np.ones((1, 2), np.float32)
    pool.add(points, [1.0], np.zeros((1, 3), bool), engine="a")
    points[:] = 5
    np.testing.assert_array_equal(pool.best()[0].point, [1, 1])


def test_many_threads_may_write_and_read(rng: np.random.Generator) -> None:
    pool = CandidatePool(capacity=20)
    patterns = rng.random((8, 60, 40)) < 0.5
    margins = rng.normal(size=(8, 60))
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for i in range(60):
                point = np.full((1, 1), number, np.float32)
                pool.add(point, margins[number, i : i + 1], patterns[number, i : i + 1], engine="t")
                best = [c.margin for c in pool.best()]
                assert best == sorted(best)
                pool.commonness()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert [c.margin for c in pool.best()] == sorted(margins.reshape(-1))[:20]


def test_candidates_apart_are_the_best_of_their_surroundings(rng: np.random.Generator) -> None:
    """Greedily, as written out over Python lists."""
    pool = CandidatePool(capacity=30)
    patterns = rng.random((30, 12)) < 0.5
    pool.add(rng.random((30, 2)).astype(np.float32), rng.random(30), patterns, engine="any")
    for distance in (1, 3, 5, 13):
        wanted: list[np.ndarray] = []
        for candidate in pool.best():
            if all((candidate.pattern != other).sum() >= distance for other in wanted):
                wanted.append(candidate.pattern)
        found = [candidate.pattern for candidate in pool.apart(30, distance)]
        np.testing.assert_array_equal(found, wanted)
        np.testing.assert_array_equal([c.pattern for c in pool.apart(2, distance)], wanted[:2])
    assert CandidatePool().apart(3, 2) == ()
