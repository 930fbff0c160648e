"""Fewer pixels by exchange, against all sets of pixels and against sets nobody can shrink."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from onnx import helper

from closegap.attacks.activation.nearest import Nearest, NearestAttack
from closegap.attacks.minimal.attack import replayed
from closegap.attacks.minimal.exchange import Exchange, _firsts
from closegap.attacks.minimal.portfolio import Portfolio
from closegap.core.budget import Budget
from closegap.frontend import loads
from closegap.graph.network import Network
from closegap.runtime.cache import replayer
from closegap.specs.distance import DistanceQuery
from closegap.specs.objectives import make_objective
from closegap.strategy.witnesses import Witnesses
from closegap.testing.distances import least_distance
from closegap.testing.networks import onnx_model, random_conv, random_mlp

#: What each of eight pixels gains; the label is lost above 1.
GAINS = np.array([0.4, 0.4, 0.4, 0.7, 0.7, 0.1, 0.1, 0.1])


def weighed(gains: np.ndarray = GAINS) -> Network:
    """Of a black image the first three pixels break the label, none of them can be missed; one
    of the fourth and the fifth does it with any of the first five.
    """
    nodes = [helper.make_node("Gemm", ["input", "w", "b"], ["output"], transB=1)]
    weights = {"w": np.stack([np.zeros(8), gains]), "b": np.array([1.0, 0.0])}
    return loads(onnx_model(nodes, weights, ["N", 8]))


def asked(network: Network, image: np.ndarray) -> DistanceQuery:
    """The pixels of an image, of the class that the network gives it."""
    picture = image.astype(np.float32).reshape(network.input_shape)
    label = int(replayer(network).outputs_float32(picture[None])[0].argmax())
    return DistanceQuery(network, picture, label, make_objective("l0", picture))


def at(query: DistanceQuery, point: np.ndarray) -> Nearest:
    """A counterexample."""
    shaped = point.astype(np.float32).reshape(query.network.input_shape)
    assert replayed(query)(shaped, query.distance(shaped))
    return Nearest(query.distance(shaped), shaped)


def test_other_pixels_come_in_where_none_can_be_missed() -> None:
    query = asked(weighed(), np.zeros(8))
    known = at(query, GAINS == 0.4)
    assert known.distance == 3
    found = Exchange().run(query, [known], Budget(), replayed(query))
    assert found.distance == 2
    assert found.point is not None
    assert found.point.reshape(-1)[[3, 4]].max() > 0
    assert replayed(query)(found.point, found.distance)


def test_one_pixel_is_not_asked_to_become_none() -> None:
    query = asked(weighed(), np.append(np.zeros(3), [0.9, 0.4, 0, 0, 0]))
    known = at(query, np.append(np.zeros(3), [0.9, 1, 0, 0, 0]))
    assert Exchange().run(query, [known], Budget(), replayed(query)) is known


def test_without_time_or_a_start_nothing_is_tried() -> None:
    query = asked(weighed(), np.zeros(8))
    known = at(query, GAINS == 0.4)
    assert Exchange().run(query, [known], Budget.of_seconds(0), replayed(query)) is known
    assert not Exchange().run(query, [Nearest()], Budget(), replayed(query)).found
    assert not Exchange().run(query, [], Budget(), replayed(query)).found


def test_what_the_judge_refuses_is_not_found() -> None:
    query = asked(weighed(), np.zeros(8))
    known = at(query, GAINS == 0.4)
    found = Exchange().run(query, [known], Budget(), lambda point, distance: False)
    assert found is known


def test_where_the_gradient_values_no_other_pixel_the_search_ends() -> None:
    """Only the first three pixels matter."""
    query = asked(weighed(np.where(GAINS == 0.4, 0.4, 0.0)), np.zeros(8))
    known = at(query, GAINS == 0.4)
    assert Exchange().run(query, [known], Budget(), replayed(query)) is known


def test_more_pixels_than_are_tried_one_by_one_stay() -> None:
    query = asked(weighed(), np.zeros(8))
    known = at(query, GAINS == 0.4)
    sizes = Exchange(polish=replace(Exchange().polish, single=2))
    assert sizes.run(query, [known], Budget(), replayed(query)) is known


@pytest.mark.parametrize("seed", [0, 2, 3])
def test_no_farther_than_before_and_no_nearer_than_all_sets_of_pixels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    network = random_mlp(rng, [5, 6, 3])
    met = 0
    while met < 2:
        query = asked(network, rng.random(5))
        exact = least_distance(query)
        corners = rng.integers(0, 2, (200, 5)).astype(np.float32)
        lost = replayer(network).outputs_float32(corners).argmax(axis=1) != query.label
        if not lost.any():
            network = random_mlp(rng, [5, 6, 3])
            continue
        known = at(query, corners[lost.argmax()])
        found = Exchange(kept=64).run(query, [known], Budget(), replayed(query))
        assert exact <= found.distance <= known.distance
        assert found.point is not None
        assert found.distance == query.distance(found.point)
        assert found.distance <= exact + 1
        met += 1


def test_channels_of_a_pixel_come_in_together(rng: np.random.Generator) -> None:
    found = Nearest()
    while not 1 < found.distance < 9:
        network = random_conv(rng, channels=3, side=4)
        query = asked(network, rng.random(network.input_shape))
        others = rng.random((60, *network.input_shape)).astype(np.float32)
        lost = replayer(network).outputs_float32(others).argmax(axis=1) != query.label
        if lost.any():
            known = at(query, others[lost.argmax()])
            found = Exchange(kept=64).run(query, [known], Budget(), replayed(query))
    assert found.point is not None
    changed = (found.point != query.image.reshape(found.point.shape)).any(axis=-3)
    assert found.distance == changed.sum() < known.distance


def test_points_that_do_not_fit_into_memory_go_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("closegap.attacks.minimal.exchange._ENTRIES", 1)
    query = asked(weighed(), np.zeros(8))
    known = at(query, GAINS == 0.4)
    assert Exchange().run(query, [known], Budget(), replayed(query)).distance == 2


def test_sets_of_one_name_come_once() -> None:
    names = torch.tensor([7, 3, 7, 9, 3])
    assert _firsts(names).tolist() == [0, 1, 3]
    assert _firsts(names[:0]).tolist() == []


def test_of_near_witnesses_the_nearest_are_exchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    """The published attacks come to three pixels; the others have no word here."""
    query = asked(weighed(), np.zeros(8))
    known = at(query, GAINS == 0.4)
    nearest = [known]

    def counts(point: np.ndarray, distance: float) -> bool:
        nearest.append(Nearest(distance, point))
        return replayed(query)(point, distance)

    monkeypatch.setattr(Witnesses, "published", lambda _: (known,))
    monkeypatch.setattr(Witnesses, "_again", lambda _: ())
    attack, budget = NearestAttack(), Budget.of_seconds(5)
    search = Witnesses(query, attack, budget, counts, lambda: nearest[-1])
    monkeypatch.setattr(Portfolio, "starts", lambda *_: ())
    monkeypatch.setattr(NearestAttack, "run", lambda *_: Nearest())
    search.search()
    assert nearest[1].distance == 2


def test_a_new_best_from_elsewhere_is_exchanged_and_others_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The bracket keeps a copy of the point that it hands on."""
    query = asked(weighed(), np.zeros(8))
    known = at(query, GAINS == 0.4)
    assert known.point is not None
    nearest = [Nearest(known.distance, known.point.copy())]

    def counts(point: np.ndarray, distance: float) -> bool:
        nearest.append(Nearest(distance, point))
        return replayed(query)(point, distance)

    monkeypatch.setattr(NearestAttack, "improve", lambda *_: Nearest())
    budget = Budget.of_seconds(5)
    search = Witnesses(query, NearestAttack(), budget, counts, lambda: nearest[-1])
    search.improve(np.ones_like(known.point))
    assert len(nearest) == 1
    search.improve(known.point)
    assert nearest[-1].distance == 2
