"""The layered engine takes what it can pay for and leaves the rest to others."""

from __future__ import annotations

import numpy as np

from closegap.core.budget import Budget
from closegap.graph import ops
from closegap.strategy.engines.layered import LayeredEngine
from closegap.strategy.session import Session
from tiny_networks import convolutional, dense
from tiny_networks import query as random_query


def test_convolutions_and_smooth_activations_are_left_alone(rng: np.random.Generator) -> None:
    for network in (convolutional(rng), dense(rng, [3, 4, 4, 2], ops.Tanh())):
        session = Session(random_query(rng, network))
        LayeredEngine().run(session, Budget.of_seconds(5))
        assert "nodes" not in session.counts


def test_without_memory_it_says_so(rng: np.random.Generator) -> None:
    session = Session(random_query(rng, dense(rng, [3, 12, 12, 2], ops.Relu()), radius=1.0))
    LayeredEngine().run(session, Budget(memory=16))
    assert "nodes" not in session.counts
    assert any("too much time or memory" in note for note in session.notes)
