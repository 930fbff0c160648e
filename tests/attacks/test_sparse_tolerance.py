"""Trees of least distances that may end early: what is proved stays what was proved."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from itertools import product

import numpy as np
import pytest
from test_sparse_tree import asked, judged, solved

from closegap.attacks.sparse.generic import GenericMip
from closegap.attacks.sparse.incumbent import Incumbent
from closegap.attacks.sparse.leaves import Leaves
from closegap.attacks.sparse.options import OURS, PAPER
from closegap.attacks.sparse.planes import Ranges
from closegap.core.budget import Budget
from closegap.core.tolerance import Tolerance
from closegap.specs.distance import DistanceQuery
from closegap.specs.objectives import (
    Grid,
    L0Distance,
    L1Distance,
    L2Distance,
    LinfDistance,
    Objective,
)
from closegap.testing.distances import least_distance

COARSE, FINE = Tolerance(math.inf, 0.3), Tolerance(1e-5, math.inf)


def counts(query: DistanceQuery, point: np.ndarray, _: float) -> bool:
    return judged(query, point)


@pytest.mark.parametrize("objective", [L1Distance(), L2Distance(), LinfDistance()])
@pytest.mark.parametrize("near", [COARSE, Tolerance(0.05, math.inf), Tolerance(), FINE])
def test_brackets_are_as_narrow_as_asked_and_hold(objective: Objective, near: Tolerance) -> None:
    query = replace(asked(7), objective=objective)
    least = least_distance(query)
    for options in (replace(OURS, attack=None, staged=False), PAPER):
        found = solved(query, replace(options, tolerance=near))
        assert found.closed and near.closes(found.lower, found.upper)
        assert found.lower <= least + 1e-7 and found.upper >= least - 1e-7


def test_a_coarse_bracket_is_left_wider() -> None:
    gaps = {COARSE: 0.0, FINE: 0.0}
    for seed, near in product((1, 4, 7), gaps):
        query = replace(asked(seed), objective=L1Distance())
        found = solved(query, replace(OURS, attack=None, staged=False, tolerance=near))
        assert near.closes(found.lower, found.upper)
        gaps[near] += found.upper - found.lower
    assert gaps[COARSE] > 100 * gaps[FINE]


def test_programs_stop_at_the_tolerance() -> None:
    for objective in (L1Distance(), LinfDistance()):
        query = replace(asked(7), objective=objective)
        least = least_distance(query)
        for near in (COARSE, Tolerance()):
            judge = partial(counts, query)
            found = GenericMip("scip", tolerance=near).run(query, Budget.of_seconds(30), judge)
            assert near.closes(found.lower, found.upper)
            assert found.lower <= least + 1e-7 and found.upper >= least - 1e-7


def test_whole_numbers_are_closed_as_ever() -> None:
    query = replace(asked(9), objective=L0Distance(Grid(1, 2, 2)))
    found = solved(query, replace(OURS, attack=None, tolerance=Tolerance.parse("1%")))
    assert found.closed and found.lower == found.upper == least_distance(query)


@pytest.mark.parametrize("near", [COARSE, Tolerance(), FINE])
def test_a_closed_node_proves_its_bound_and_no_more(near: Tolerance) -> None:
    query = replace(asked(7), objective=L1Distance())
    incumbent = Incumbent(query, lambda *_: True)
    assert incumbent.offer(query.image.reshape(-1) + np.array([0.1, -0.1, 0.1, -0.1]))
    leaves = Leaves(replace(OURS, tolerance=near), query, incumbent)
    (root,) = leaves.plant(1, Ranges(-np.ones(2), np.ones(2))).tolist()
    enough = incumbent.distance - near.width(incumbent.distance)
    assert not leaves.bounded(root, enough - 1e-9)
    assert leaves.bounded(root, enough + 1e-9) and leaves.all_closed
    leaves.settle()
    assert incumbent.lower == pytest.approx(enough + 1e-9, abs=1e-12)
    assert near.closes(incumbent.lower, incumbent.distance)
