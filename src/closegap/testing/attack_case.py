"""What every batched attack must keep: subclass `AttackCase`, say which attack, run pytest.

A test module of an attack reads

    class TestMine(AttackCase):
        def method(self) -> Attack:
            return make_attack("mine", AttackOptions(steps=10, restarts=3))
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from closegap.attacks.activation.query_attack import Attack
from closegap.attacks.activation.query_attack import run_attack as run
from closegap.attacks.outcome import AttackOutcome
from closegap.core.budget import Budget
from closegap.core.errors import OptionError
from closegap.graph.network import Network
from closegap.runtime.torch_network import TorchNetwork
from closegap.specs.property import Property
from closegap.specs.query import Query, robustness
from closegap.specs.region import Box, contains
from closegap.testing.enumeration import clause_margin, least_clause_margin
from closegap.testing.networks import (
    random_conv,
    random_maxpool,
    random_mlp,
    random_sigmoid,
    random_sign,
)

__all__ = ["AttackCase"]

#: Float32 margins of networks whose outputs are of order 10 may be off by this.
_ROUNDING = 1e-4


class AttackCase:
    """The suite. Every test holds for any attack, good or bad."""

    #: Whether the attack's loss works for any property, not only for the robustness of a class.
    any_property = True

    def method(self) -> Attack:
        """The attack, with sizes small enough for a test."""
        raise NotImplementedError

    @pytest.mark.parametrize("norm", [1.0, 2.0, math.inf])
    @pytest.mark.parametrize("build", [random_conv, random_maxpool])
    def test_candidates_are_members_with_their_margins(
        self, rng: np.random.Generator, norm: float, build: Any
    ) -> None:
        """Points lie in the region with no tolerance; margins are the property's, ascending."""
        network = build(rng)
        radius = {1.0: 2.0, 2.0: 0.6, math.inf: 0.2}[norm]
        queries = [
            robustness(network, rng.random(network.input_shape), label, radius, norm=norm)
            for label in (0, 2, 1)
        ]
        outcomes = run(TorchNetwork(network), queries, self.method(), Budget())
        assert len(outcomes) == len(queries)
        for query, outcome in zip(queries, outcomes, strict=True):
            _check(query, outcome)
            assert len(outcome.margins) > 0
            assert outcome.finished

    def test_boxes_of_any_scale_with_fixed_inputs(self, rng: np.random.Generator) -> None:
        """Inputs in thousands beside inputs in hundredths beside fixed ones."""
        network = random_mlp(rng, [4, 8, 8, 3])
        lower = np.array([0.1, -3000.0, 0.01, 5.0])
        upper = np.array([0.1, 2500.0, 0.012, 5.0])
        query = Query(network, Box(lower, upper), self._property(network))
        (outcome,) = run(TorchNetwork(network), [query], self.method(), Budget())
        _check(query, outcome, rounding=1e4 * _ROUNDING)
        assert len(outcome.margins) > 0
        assert (outcome.points[:, 3] == 5).all()

    def test_a_box_that_is_a_point(self, rng: np.random.Generator) -> None:
        """Radius 0 is the clean check."""
        network = random_mlp(rng, [3, 6, 3])
        image = rng.random(3).astype(np.float32)
        query = robustness(network, image, 0, 0.0)
        (outcome,) = run(TorchNetwork(network), [query], self.method(), Budget())
        _check(query, outcome)
        np.testing.assert_array_equal(outcome.points, np.broadcast_to(image, outcome.points.shape))

    @pytest.mark.parametrize("norm", [1.0, math.inf])
    def test_never_below_the_optimum(self, rng: np.random.Generator, norm: float) -> None:
        """The least margin over all linear regions bounds every candidate's from below."""
        for _ in range(2):
            network = random_mlp(rng, [2, 4, 3, 3])
            query = robustness(network, rng.random(2), int(rng.integers(3)), 0.3, norm=norm)
            optimum = min(least_clause_margin(query, k) for k in range(query.prop.clauses))
            (outcome,) = run(TorchNetwork(network), [query], self.method(), Budget())
            assert outcome.margin >= optimum - _ROUNDING

    def test_conjunctions_and_constants(self, rng: np.random.Generator) -> None:
        """A clause of several rows, with offsets, not strict."""
        network = random_mlp(rng, [2, 5, 3])
        prop = Property(
            rows=rng.normal(size=(5, 3)),
            offsets=rng.normal(size=5),
            clause=np.array([0, 0, 1, 2, 2]),
            strict=False,
            names=("a", "b", "c"),
        )
        query = Query(network, Box(np.full(2, -1.0), np.ones(2)), prop)
        if not self.any_property:
            with pytest.raises(OptionError, match="needs a robustness property"):
                run(TorchNetwork(network), [query], self.method(), Budget())
            return
        (outcome,) = run(TorchNetwork(network), [query], self.method(), Budget())
        _check(query, outcome)
        assert outcome.margin >= min(least_clause_margin(query, k) for k in range(3)) - _ROUNDING

    def test_a_mixed_batch_keeps_its_order(self, rng: np.random.Generator) -> None:
        """Queries of several norms and shapes come back in the order they were given."""
        network = random_mlp(rng, [5, 8, 3])
        queries = [
            robustness(network, rng.random(5), label, radius, norm=norm, target=target)
            for label, radius, norm, target in [
                (0, 0.1, math.inf, None),
                (1, 0.3, 2.0, 2),
                (2, 0.2, math.inf, 0),
                (2, 0.5, 1.0, None),
                (0, 0.4, math.inf, None),
            ]
        ]
        outcomes = run(TorchNetwork(network), queries, self.method(), Budget())
        for query, outcome in zip(queries, outcomes, strict=True):
            _check(query, outcome)
            assert len(outcome.margins) > 0

    def test_the_seed_decides(self, rng: np.random.Generator) -> None:
        """Twice the same seed: the same points, bit by bit."""
        network = random_conv(rng)
        query = robustness(network, rng.random(network.input_shape), 0, 0.1)
        first, second = (
            run(TorchNetwork(network), [query], self.method(), Budget(seed=7))[0] for _ in range(2)
        )
        np.testing.assert_array_equal(first.points, second.points)
        np.testing.assert_array_equal(first.margins, second.margins)

    def test_no_time_gives_nothing(self, rng: np.random.Generator) -> None:
        """An expired budget: no candidates, no error."""
        network = random_mlp(rng, [3, 6, 3])
        query = robustness(network, rng.random(3), 0, 0.1)
        (outcome,) = run(TorchNetwork(network), [query], self.method(), Budget.of_seconds(0))
        assert not outcome.finished
        assert outcome.points.shape == (0, 3)
        assert outcome.best is None
        assert outcome.margin == math.inf

    @pytest.mark.parametrize("build", [random_sign, random_sigmoid])
    def test_networks_with_poor_gradients(self, rng: np.random.Generator, build: Any) -> None:
        """Signs without a derivative, and saturated sigmoids: candidates all the same."""
        network = build(rng, [6, 8, 8, 3])
        query = robustness(network, rng.random(6), 1, 0.4)
        (outcome,) = run(TorchNetwork(network), [query], self.method(), Budget())
        _check(query, outcome)
        assert len(outcome.margins) > 0

    def test_little_memory_changes_only_the_chunks(self, rng: np.random.Generator) -> None:
        """A budget of one byte runs lane by lane, and returns as many candidates."""
        network = random_mlp(rng, [3, 6, 3])
        queries = [robustness(network, rng.random(3), label, 0.01) for label in (0, 1)]
        wide = run(TorchNetwork(network), queries, self.method(), Budget())
        narrow = run(TorchNetwork(network), queries, self.method(), Budget(memory=1))
        for query, one, other in zip(queries, wide, narrow, strict=True):
            _check(query, other)
            if one.margin > 0 and other.margin > 0:
                assert len(one.margins) == len(other.margins)

    def _property(self, network: Network) -> Property:
        return robustness(network, np.full(network.input_shape, 0.5), 1, 0.0).prop


def _check(query: Query, outcome: AttackOutcome, *, rounding: float = _ROUNDING) -> None:
    """Members only, ascending, and each margin is the property's in float64."""
    points: Sequence[Any] = list(outcome.points)
    assert outcome.points.dtype == np.float32
    assert outcome.points.shape == (len(outcome.margins), *query.network.input_shape)
    assert all(contains(query.region, point) for point in points)
    assert (np.diff(outcome.margins) >= 0).all()
    if not points:
        return
    exact = np.min(
        [clause_margin(query, k, outcome.points) for k in range(query.prop.clauses)], axis=0
    )
    if not any(type(node.op).__name__ == "Sign" for node in query.network.nodes):
        np.testing.assert_allclose(outcome.margins, exact, atol=rounding)
        return
    with torch.no_grad():
        network = TorchNetwork(query.network)
        outputs = network(network.tensor(outcome.points)).numpy()
    np.testing.assert_allclose(outcome.margins, query.prop.margins(outputs), atol=rounding)
