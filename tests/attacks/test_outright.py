"""Targets that must win over every class: the tree against enumeration, sampling and programs."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from closegap.attacks.sparse.generic import GenericMip
from closegap.attacks.sparse.ground import make_ground
from closegap.attacks.sparse.joined import joined
from closegap.attacks.sparse.options import OURS, PAPER, SparseOptions
from closegap.attacks.sparse.tree import SparseTree
from closegap.core.budget import Budget
from closegap.runtime.cache import replayer
from closegap.runtime.torch_network import TorchNetwork
from closegap.specs.distance import DistanceQuery
from closegap.specs.objectives import (
    Grid,
    L0Distance,
    L1Distance,
    L1TvDistance,
    L2Distance,
    LinfDistance,
    Objective,
)
from closegap.specs.property import Property
from closegap.strategy.distance import minimise_distance
from closegap.testing.distances import least_distance, pieces_of
from closegap.testing.networks import random_mlp

GRID = Grid(1, 1, 3)
OBJECTIVES: list[Objective] = [
    L1Distance(),
    L1Distance(np.array([0.5, 1.0, 2.0])),
    L2Distance(),
    LinfDistance(),
    L0Distance(GRID),
    L1TvDistance(GRID),
    L1TvDistance(GRID, of="difference"),
]
OPTIONS: dict[str, SparseOptions] = {
    "waves": replace(OURS, attack=None, staged=False),
    "staged": replace(OURS, attack=None),
    "programs": replace(OURS, attack=None, batch=0),
    "paper": PAPER,
}


def asked(rng: np.random.Generator, classes: int = 5) -> DistanceQuery:
    """A class that can beat the label nearer to the image than it can win over all classes."""
    while True:
        network = random_mlp(rng, [3, 4, 3, classes])
        points = rng.random((400, 3)).astype(np.float32)
        labels = replayer(network).outputs_float32(points).argmax(axis=1)
        present = np.unique(labels)
        if len(present) < 3:
            continue
        for target in present.tolist():
            image, label = points[labels != target][0], int(labels[labels != target][0])
            query = DistanceQuery(network, image, label, L1Distance(), target, outright=True)
            loose = least_distance(replace(query, outright=False))
            least = least_distance(query)
            if loose + 1e-3 < least < math.inf:
                return query


def judged(query: DistanceQuery, point: np.ndarray) -> bool:
    witness = replayer(query.network).witness(query.within(query.distance(point)), point)
    return witness is not None and witness.breaks


@pytest.mark.parametrize("name", list(OPTIONS))
def test_the_tree_closes_at_the_enumerated_distance(rng: np.random.Generator, name: str) -> None:
    query = asked(rng)
    pieces = pieces_of(query)
    for objective in OBJECTIVES:
        wanted = replace(query, objective=objective)
        least = least_distance(wanted, pieces)
        found = SparseTree(OPTIONS[name]).run(
            wanted, Budget.of_seconds(30), lambda point, _, q=wanted: judged(q, point)
        )
        assert found.closed, (name, objective.name)
        assert found.lower <= least + 1e-7 and found.upper >= least - 1e-7
        assert OURS.tolerance.closes(found.lower, found.upper)
        assert found.witness is not None
        outputs = replayer(query.network).outputs_float32(found.witness[None])[0]
        assert outputs.argmax() == query.target


def test_programs_of_solvers_say_the_same(rng: np.random.Generator) -> None:
    for _ in range(3):
        query = asked(rng)
        both = [
            solver.run(query, Budget.of_seconds(30), lambda point, _, q=query: judged(q, point))
            for solver in (SparseTree(OPTIONS["waves"]), GenericMip())
        ]
        tree, mip = both
        assert tree.lower <= mip.upper + 1e-6 and mip.lower <= tree.upper + 1e-6
        assert abs(tree.upper - mip.upper) <= 2e-3


def test_brackets_close_and_are_beyond_those_of_the_label_alone(rng: np.random.Generator) -> None:
    query = asked(rng)
    for objective in (L1Distance(), L2Distance(), LinfDistance(), L0Distance(GRID)):
        wanted = replace(query, objective=objective)
        least = least_distance(wanted)
        result = minimise_distance(wanted, timeout=20)
        assert result.closed and result.lower <= least + 1e-7 and result.upper >= least - 1e-7


@pytest.mark.parametrize("sizes", [[1], [2, 1, 5], [3, 3], [9]])
def test_the_greatest_row_of_each_clause_is_its_one_row(
    rng: np.random.Generator, sizes: list[int]
) -> None:
    """Every clause's margin, in the order of the clauses, for any number of rows."""
    network = random_mlp(rng, [3, 4, 4])
    count = sum(sizes)
    prop = Property(
        rows=rng.normal(size=(count, 4)),
        offsets=rng.normal(size=count),
        clause=rng.permutation(np.repeat(np.arange(len(sizes)), sizes)),
        strict=True,
        names=tuple("abcdef"[: len(sizes)]),
    )
    query = replace(DistanceQuery(network, np.zeros(3, np.float32), 0).within(1.0), prop=prop)
    single = joined(query)
    points = rng.random((50, 3)).astype(np.float32)
    wanted = prop.clause_values(prop.row_margins(replayer(network).outputs_float64(points)))
    outputs = TorchNetwork(single.network, dtype=torch.float64)
    seen = outputs(outputs.tensor(points)).numpy()
    np.testing.assert_allclose(single.prop.row_margins(seen), wanted, atol=1e-12)
    assert joined(query).network is single.network


def test_the_ground_has_one_row_for_all(rng: np.random.Generator) -> None:
    query = asked(rng)
    ground = make_ground(query, 2.0, Budget())
    assert ground is not None and len(ground.rows) == 1
    prop = query.within(2.0).prop
    for point in rng.random((100, 3)).astype(np.float32):
        outputs = replayer(query.network).outputs_float64(point[None])
        margin = ground.forward(point - query.center)[1]
        assert margin == pytest.approx(prop.margins(outputs), abs=1e-9)
