"""Branch and cut against sampling, enumeration and lies."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from closegap.bounds.regions import input_set
from closegap.core.budget import Budget
from closegap.core.verdict import Verdict
from closegap.frontend import load
from closegap.graph import ops
from closegap.mip.model import Claim, Status
from closegap.runtime.torch_network import TorchNetwork
from closegap.specs.query import robustness
from closegap.specs.vnnlib import load_vnnlib, queries
from closegap.strategy.solve import solve
from closegap.testing.enumeration import clause_margin, interval_bounds, least_clause_margin
from closegap.testing.networks import random_mlp, random_sigmoid
from closegap.verify.cutting.anderson import AndersonCuts
from closegap.verify.cutting.region import region_programs
from closegap.verify.cutting.relaxation import Fixings, Relaxation
from closegap.verify.cutting.tree import CutSearch, SearchOptions
from tiny_networks import convolutional, dense, query, residual, samples

FAMILIES = {
    "dense": lambda rng: dense(rng, [3, 5, 4, 3], ops.Relu()),
    "residual": residual,
    "convolutional": convolutional,
}


@pytest.fixture(params=sorted(FAMILIES))
def tiny(request, rng):
    """A query of one row."""
    return query(rng, FAMILIES[request.param](rng))


def program_of(q):
    region = input_set(TorchNetwork(q.network, dtype=torch.float64), q.region)
    programs = region_programs(q, region, interval_bounds(q), Budget())
    assert programs is not None
    return programs, programs.program(0)


def completed(q, programs, program, points):
    """Every column at sampled inputs, by the reduced network's own forward pass."""
    layout, reduced = program.layout, programs.reduced
    flat = torch.as_tensor(points.reshape(len(points), -1).astype(np.float64))
    values = TorchNetwork(reduced.network, dtype=torch.float64).values(flat)
    z = np.concatenate([values[feed].numpy() for feed in sorted(reduced.origin)], axis=1)
    columns = np.zeros((len(points), layout.columns))
    columns[:, : layout.inputs] = flat.numpy()[:, program.used]
    columns[:, layout.positive] = np.maximum(z, 0)
    columns[:, layout.negative] = np.maximum(-z, 0)
    columns[:, layout.phase] = z >= 0
    return columns


def search_of(q, offer=lambda point: False):
    _, program = program_of(q)
    search = CutSearch(program, SearchOptions(), offer, lambda: False)
    budget = Budget.of_seconds(20)
    search.root(budget)
    return search, budget


def shifted(q, offset):
    """The same query with the property's margins raised."""
    return replace(q, prop=replace(q.prop, offsets=q.prop.offsets + offset))


def test_every_input_is_a_feasible_point_with_its_margin(tiny, rng):
    programs, program = program_of(tiny)
    points = samples(rng, tiny, 50)
    margins = clause_margin(tiny, 0, points)
    for column, margin in zip(completed(tiny, programs, program, points), margins, strict=True):
        assert program.model.violation(column) < 1e-9
        assert program.model.objective(column) <= margin + 1e-9
        assert program.model.objective(column) == pytest.approx(margin, abs=1e-3)


def test_no_cut_removes_an_input(tiny, rng):
    programs, program = program_of(tiny)
    columns = completed(tiny, programs, program, samples(rng, tiny, 50))
    separator = AndersonCuts(program)
    lower, upper = program.model.lower, program.model.upper
    for _ in range(20):
        somewhere = lower + (upper - lower) * rng.random(len(lower))
        found = separator.separate(somewhere, 0.0, 100)
        assert (found.matrix @ columns.T <= found.upper[:, None] + 1e-12).all()
        assert (found.matrix @ somewhere > found.upper).all()


def test_cuts_raise_the_bound_and_never_above_the_least_margin(tiny):
    search, _ = search_of(shifted(tiny, -1e3))
    _, program = program_of(shifted(tiny, -1e3))
    plain = Relaxation(program).solve(Fixings.none(), Budget.of_seconds(10)).lower
    assert plain - 1e-9 <= search.lower <= least_clause_margin(shifted(tiny, -1e3), 0)


@pytest.mark.parametrize("distance", [0.02, 0.5])
def test_a_true_property_is_proved(tiny, distance):
    q = shifted(tiny, distance - least_clause_margin(tiny, 0))
    search, budget = search_of(q)
    search.run(budget)
    assert search.finished
    assert search.lower == np.inf


@pytest.mark.parametrize("distance", [-0.02, -0.5])
def test_a_false_property_is_not_proved_and_its_point_is_offered(tiny, distance):
    truth = least_clause_margin(tiny, 0)
    q, seen = shifted(tiny, distance - truth), []
    search, budget = search_of(q, lambda point: seen.append(point))
    search.run(budget)
    assert search.lower <= distance
    margins = clause_margin(q, 0, np.stack(seen).reshape(-1, *q.network.input_shape))
    assert margins.min() < 0


def test_implied_phases_hold_where_the_margin_is_not_positive(tiny, rng):
    points = samples(rng, tiny, 400)
    q = shifted(tiny, -float(np.quantile(clause_margin(tiny, 0, points), 0.05)))
    programs, program = program_of(q)
    relaxation = Relaxation(program)
    budget = Budget.of_seconds(10)
    solved = relaxation.solve(Fixings.none(), budget)
    implied = relaxation.implied(solved)
    bad = points[clause_margin(q, 0, points) <= 0]
    phases = completed(q, programs, program, bad)[:, program.layout.phase] > 0.5
    assert (phases[:, implied.units] == implied.on).all()


def test_a_solver_that_lies_proves_nothing(tiny, rng, monkeypatch):
    q = shifted(tiny, -1.0 - least_clause_margin(tiny, 0))

    class Liar:
        def set_column_bounds(self, columns, lower, upper):
            pass

        def add_rows(self, matrix, lower, upper):
            pass

        def solve(self, options):
            duals = rng.normal(size=10_000)[: program.model.rows] * 100
            return Claim(Status.INFEASIBLE, bound=np.inf, row_duals=duals)

    _, program = program_of(q)
    monkeypatch.setattr(Relaxation, "_open", lambda self: Liar())
    search = CutSearch(program, SearchOptions(), lambda point: False, lambda: False)
    search.root(Budget.of_seconds(1))
    search.run(Budget.of_seconds(0.2))
    assert search.lower <= 0


def test_dropping_idle_cuts_changes_no_bound(tiny):
    _, program = program_of(shifted(tiny, -10.0))
    relaxation, budget = Relaxation(program), Budget.of_seconds(10)
    for _ in range(8):
        solved = relaxation.solve(Fixings.none(), budget)
        relaxation.cut(solved.point)
    before = relaxation.solve(Fixings.none(), budget).lower
    relaxation.drop_idle(1)
    assert relaxation.solve(Fixings.none(), budget).lower == pytest.approx(before, abs=1e-6)


def test_the_engine_decides_what_linear_bounds_cannot(rng):
    network = random_mlp(rng, [6, 16, 16, 3])
    undecided = 0
    for _ in range(6):
        image = rng.random(6).astype(np.float32)
        label = int(TorchNetwork(network)(torch.as_tensor(image)[None]).argmax())
        q = robustness(network, image, label, 0.4)
        if solve(q, engines=["clean", "crown"], timeout=5).verdict is not Verdict.UNKNOWN:
            continue
        undecided += 1
        found = solve(q, engines=["clean", "pgd", "crown", "cuts"], timeout=10)
        other = solve(q, engines=["clean", "pgd", "crown", "bab"], timeout=10)
        assert found.verdict is other.verdict is not Verdict.UNKNOWN
    assert undecided


def test_the_engine_leaves_alone_what_it_cannot_cut(rng):
    network = random_sigmoid(rng, [4, 5, 3])
    q = robustness(network, np.full(4, 0.5, np.float32), 0, 0.2)
    found = solve(q, engines=["crown", "cuts"], timeout=5)
    assert not any("cuts" in note for note in found.detail.split("; "))


class _Failing:
    """A solver's session that fails after so many programs."""

    def __init__(self, session, left):
        self._session, self.left = session, left

    def __getattr__(self, name):
        return getattr(self._session, name)

    def solve(self, options):
        self.left -= 1
        if self.left < 0:
            raise MemoryError
        return self._session.solve(options)


def test_a_turn_that_fails_loses_no_open_program(rng):
    """The next turn goes on with the tree: what was being visited must still be open."""
    q = query(rng, dense(rng, [3, 6, 5, 3], ops.Relu()))
    q = shifted(q, -1e-3 - least_clause_margin(q, 0))
    failed = 0
    for left in range(8):
        search, budget = search_of(q)
        search._relaxation._session = _Failing(search._relaxation._session, left)
        try:
            search.run(budget)
        except MemoryError:
            failed += 1
            assert not search.finished
        assert search.lower <= 0
    assert failed


def test_time_that_ends_while_a_node_is_given_up_keeps_it_open(rng, monkeypatch):
    q = query(rng, dense(rng, [3, 6, 5, 3], ops.Relu()))
    q = shifted(q, -1e-3 - least_clause_margin(q, 0))
    for late in range(12):
        search, budget = search_of(q)
        polls = iter([False] * late)
        monkeypatch.setattr(search, "_choose", lambda *_: None)
        monkeypatch.setattr(search, "_stopped", lambda polls=polls: next(polls, True))
        search.run(budget)
        assert search.lower <= 0


def test_thousands_of_units_that_read_four_pixels_each(data_path):
    """Linear bounds leave it open; cuts of the root prove it, as the published verdict says."""
    folder = data_path("vnncomp/verivital")
    network = load(folder / "onnx/Convnet_avgpool.onnx.gz")
    (asked,) = queries(load_vnnlib(folder / "vnnlib/prop_12_0.04.vnnlib.gz"), network)
    assert solve(asked, engines=("crown",)).verdict is Verdict.UNKNOWN
    result = solve(asked, engines=("crown", "cut-roots"))
    assert (result.verdict, result.engine) == (Verdict.VERIFIED, "cuts")
