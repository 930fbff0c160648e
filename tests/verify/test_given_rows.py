"""Rows made of the duals of programs with cuts: true, and worth what the programs are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from closegap.bounds.constraints import CutPart, LinearCuts
from closegap.bounds.records import Interval
from closegap.bounds.regions import input_set
from closegap.core.budget import Budget
from closegap.graph import ops
from closegap.graph.network import Network, Node
from closegap.runtime.torch_network import TorchNetwork
from closegap.specs.property import Property
from closegap.specs.query import Query
from closegap.specs.region import Box
from closegap.strategy.engines.cutoff import CutoffEngine
from closegap.strategy.engines.cuts import CutRootsEngine
from closegap.strategy.session import Session
from closegap.testing.enumeration import least_clause_margin
from closegap.verify.bab.bounder import DomainBounder
from closegap.verify.bab.constraints import DomainConstraints
from closegap.verify.bab.domains import DomainBatch
from closegap.verify.bab.given import GivenRows, with_given
from closegap.verify.bab.options import BranchOptions
from closegap.verify.bab.owned import OwnedCuts
from closegap.verify.bab.problem import split_problem
from closegap.verify.bab.search import BranchAndBound
from closegap.verify.cutting.ascent import ClimbOptions, HullClimb
from closegap.verify.cutting.region import region_programs
from closegap.verify.cutting.relaxation import Fixings, Relaxation
from closegap.verify.cutting.rows import on_network, phaseless_rows
from closegap.verify.incomplete import LinearVerifier
from tiny_networks import convolutional, dense, query, residual, samples, twofold

FAMILIES = {
    "twofold": twofold,
    "dense": lambda rng: dense(rng, [3, 6, 5, 3], ops.Relu()),
    "residual": residual,
    "convolutional": convolutional,
}
NONE = DomainConstraints()


@pytest.fixture(params=sorted(FAMILIES))
def asked(request, rng):
    """A query, its bounds, its programs, and the root program after some rounds of cuts."""
    for _ in range(20):
        q = query(rng, FAMILIES[request.param](rng))
        bounds = LinearVerifier(q).activations(Budget())
        region = input_set(TorchNetwork(q.network, dtype=torch.float64), q.region)
        programs = region_programs(q, region, bounds.flat(), Budget())
        if programs is None:
            continue
        relaxation, budget = Relaxation(programs.program(0)), Budget.of_seconds(20)
        solved = relaxation.solve(Fixings.none(), budget)
        for _ in range(6):
            if not relaxation.cut(solved.point):
                break
            solved = relaxation.solve(Fixings.none(), budget)
        if relaxation.rows(solved) is not None:
            return q, bounds, programs, relaxation, solved
    raise AssertionError("no program needs cuts")


def cuts_of(q, programs, relaxation, solved):
    return on_network(relaxation.rows(solved), relaxation.program, programs.reduced, q.network)


def climbed(programs, **options):
    return HullClimb(programs.program(0), ClimbOptions(**options)).run(Budget())


def test_climbed_duals_are_worth_at_most_the_program_and_nearly_that(asked):
    q, _, programs, relaxation, _ = asked
    bare = Relaxation(relaxation.program).solve(Fixings.none(), Budget.of_seconds(20))
    plain = climbed(programs, first=300, rounds=0, last=0)
    assert not len(plain.cuts.upper)
    scale = 1 + abs(bare.lower)
    assert bare.lower - 0.02 * scale <= plain.lower <= bare.lower + 1e-6 * scale
    found = climbed(programs)
    program = Relaxation(relaxation.program)
    program.add(found.cuts)
    optimum = program.solve(Fixings.none(), Budget.of_seconds(20)).lower
    assert optimum - 0.2 * scale <= found.lower <= optimum + 1e-6 * scale
    assert plain.lower <= found.lower <= least_clause_margin(q, 0)


def test_every_input_obeys_the_rows_of_climbed_duals(asked, rng):
    q, _, programs, _, _ = asked
    found = climbed(programs, stall=0.0)
    if found.rows is not None:
        cuts = on_network(found.rows, found.program, programs.reduced, q.network)
        assert float(excess(q, cuts, samples(rng, q, 3000)).max()) <= 0


def test_roots_too_large_for_the_solver_are_climbed_on(asked, monkeypatch):
    q, bounds, programs, _, _ = asked
    monkeypatch.setattr("closegap.strategy.engines.cuts.suits_cuts", lambda session: False)
    monkeypatch.setattr("closegap.strategy.engines.cuts.chain_nodes", lambda network: None)
    session = Session(q)
    session.learn_bounds(bounds)
    CutRootsEngine().run(session, Budget.of_seconds(40))
    given = session.held["rows"]
    assert session.clause_lower[0] == pytest.approx(climbed(programs).lower)
    assert {rows.clause for rows in given} <= set(range(q.prop.clauses))
    CutRootsEngine().run(session, Budget.of_seconds(40))
    assert session.held["rows"] is given
    assert len(given) == len({rows.clause for rows in given})


def excess(q, cuts, points):
    """By how much sampled inputs break the rows, `[N, rows]`; the network's own forward pass."""
    values = TorchNetwork(q.network, dtype=torch.float64).values(torch.as_tensor(points).double())
    terms = cuts.terms(torch.eye(cuts.size, dtype=torch.float64)[None], None)  # one row each
    parts = terms.coefficients.items()
    left = sum(values[node].flatten(1) @ part[0].flatten(1).T for node, part in parts)
    return -left + terms.constant[0]


def test_every_input_obeys_the_rows(asked, rng):
    q, _, programs, relaxation, solved = asked
    cuts = cuts_of(q, programs, relaxation, solved)
    assert float(excess(q, cuts, samples(rng, q, 3000)).max()) <= 0


@pytest.mark.parametrize("size", [1.0, 1e3])
def test_any_duals_make_rows_that_hold(asked, rng, size):
    q, _, programs, relaxation, solved = asked
    model = relaxation.program.model
    duals = rng.normal(size=len(solved.duals)) * size
    cuts = relaxation._matrix[model.rows :], relaxation._upper, relaxation._owner
    rows = phaseless_rows(relaxation.program, *cuts, duals)
    assert rows is not None
    found = on_network(rows, relaxation.program, programs.reduced, q.network)
    assert float(excess(q, found, samples(rng, q, 3000)).max()) <= 0


def test_a_bound_with_the_rows_is_nearly_the_programs_own(asked):
    q, bounds, programs, relaxation, solved = asked
    cuts = cuts_of(q, programs, relaxation, solved)
    problem, budget = split_problem(q, bounds, np.array([0])), Budget.of_seconds(20)
    none = np.zeros((1, 0), np.int64)
    batch = DomainBatch(np.array([0]), none, none)
    bare = DomainBounder(problem, BranchOptions().root).bound(batch, budget)
    started = DomainBatch(batch.root, none, none, bare.payload)
    given = with_given(problem, started, NONE, [GivenRows(0, cuts)])
    found = DomainBounder(problem, BranchOptions().root, given.constraints).bound(
        given.batch, budget
    )
    gap = solved.lower - float(bare.lower[0])
    assert float(found.lower[0]) <= least_clause_margin(q, 0)
    assert float(found.lower[0]) >= float(bare.lower[0]) - 1e-6
    assert gap < 1e-3 or float(found.lower[0]) > float(bare.lower[0]) + gap / 2


@pytest.mark.parametrize("distance", [1e-3, -1e-3])
def test_a_tree_that_is_given_rows_decides_as_enumeration_does(asked, distance):
    q, bounds, programs, relaxation, solved = asked
    cuts = cuts_of(q, programs, relaxation, solved)
    problem = split_problem(q, bounds, np.array([0]))
    shift = distance - least_clause_margin(q, 0)
    problem.offsets.add_(shift)
    broken = []
    search = BranchAndBound(problem, BranchOptions(), lambda points: broken.append(points) or False)
    search.give([GivenRows(0, cuts), GivenRows(0, cuts)])
    outcome = search.run(Budget.of_seconds(20))
    assert outcome.accounting.balanced
    assert (float(outcome.lower[0]) > 0) == (distance > 0)


def test_rows_about_neurons_that_a_tighter_problem_has_not_are_left_out(asked, rng):
    q, _, programs, relaxation, solved = asked
    cuts = cuts_of(q, programs, relaxation, solved)
    middle, half = (q.region.lower + q.region.upper) / 2, (q.region.upper - q.region.lower) / 2
    none, kept = np.zeros((1, 0), np.int64), []
    for share in (0.9, 0.5, 0.2):
        inner = Box(middle - share * half, middle + share * half)
        certain = Query(q.network, inner, q.prop)
        problem = split_problem(
            certain, LinearVerifier(certain).activations(Budget()), np.zeros(1, int)
        )
        payload = np.zeros((1, DomainBounder(problem, BranchOptions().root).width), np.float32)
        batch = DomainBatch(np.array([0]), none, none, payload)
        given = with_given(problem, batch, NONE, [GivenRows(0, cuts)])
        kept.append(0 if given is None else given.constraints.width)
        points = torch.as_tensor(samples(rng, certain, 50)).double()
        shape = problem.exact.network.input_shape
        values = problem.exact.values(points.reshape(len(points), *shape))
        for held in [] if given is None else given.constraints.exact[0].cuts.values():
            left = sum(
                values[p.node].flatten(1)[:, p.neurons] @ p.weights.to_dense().T for p in held.parts
            )
            assert float((left - held.limits).max()) <= 1e-9
    assert cuts.size >= kept[0] > kept[2]


def test_rows_that_read_leaky_units_below_zero_are_left_out():
    # h0 = x / 2, h1 = leaky(x + y): h0 <= h1 holds, and says nothing of h1 alone.
    sizes = (
        ops.Linear(np.array([[1.0, 0], [1, 1]]), np.zeros(2)),
        ops.Linear(np.eye(2)[1:], np.array([0.4])),
    )
    kinds = (ops.Input(), sizes[0], ops.LeakyRelu(0.5), sizes[1])
    shapes = ((2,), (2,), (2,), (1,))
    nodes = [
        Node(op, (place - 1,) if place else (), shape, f"n{place}")
        for place, (op, shape) in enumerate(zip(kinds, shapes, strict=True))
    ]
    prop = Property(np.ones((1, 1)), np.zeros(1), np.zeros(1, np.int64), False, ("c",))
    region = Box(np.array([-2.0, 1]), np.array([-1.0, 2]))
    q = Query(Network(tuple(nodes), b"", "", None), region, prop, "q")
    problem = split_problem(q, LinearVerifier(q).activations(Budget()), np.array([0]))
    row = torch.tensor([[1.0, -1.0]]).double()
    cuts = LinearCuts((CutPart.of(2, (2,), torch.arange(2), row),), torch.zeros(1).double())
    none = np.zeros((1, 0), np.int64)
    batch = DomainBatch(np.array([0]), none, none, np.zeros((1, 2 * problem.units), np.float32))
    assert with_given(problem, batch, NONE, [GivenRows(0, cuts)]) is None


def test_rows_survive_a_snapshot_and_damage_is_refused(asked):
    q, _, programs, relaxation, solved = asked
    cuts = cuts_of(q, programs, relaxation, solved)
    again = LinearCuts.of_arrays(cuts.arrays(), q.network.nodes)
    assert torch.equal(again.limits, cuts.limits)
    for part, same in zip(cuts.parts, again.parts, strict=True):
        assert (part.node, part.shape) == (same.node, same.shape)
        assert torch.equal(part.weights.to_dense(), same.weights.to_dense())
        assert torch.equal(part.neurons, same.neurons)
    spoiled = cuts.arrays() | {"neurons_0": np.array([10**6] * len(cuts.parts[0].neurons))}
    with pytest.raises(ValueError, match="damaged"):
        LinearCuts.of_arrays(spoiled, q.network.nodes)


def test_domains_are_bound_by_the_rows_of_their_own_root(asked, rng):
    q, _, programs, relaxation, solved = asked
    cuts = cuts_of(q, programs, relaxation, solved)
    fewer = cuts.part(torch.arange(max(1, cuts.size - 1)))
    made = OwnedCuts.of({0: cuts, 2: fewer})
    again = OwnedCuts.of_arrays(made.arrays(), q.network.nodes)
    values = [Interval(-torch.ones(1, *n.shape), torch.ones(1, *n.shape)) for n in q.network.nodes]
    values = [Interval(v.lower.double(), v.upper.double()) for v in values]
    owner = np.array([0, 2, 1, 0, 2])
    multipliers = torch.as_tensor(rng.random((5, 1, made.size)))
    for held in (made.of_domains(owner), again.of_domains(owner)):
        found = held.terms(multipliers, values)
        for place, root in enumerate(owner):
            own = {0: cuts, 2: fewer}.get(int(root))
            given = multipliers[[place]]
            if own is None:
                assert not any(part[place].any() for part in found.coefficients.values())
                assert not found.constant[place].any()
                continue
            true = own.terms(given[..., : own.size], values)
            for node, part in true.coefficients.items():
                assert torch.allclose(found.coefficients[node][[place]], part)
            assert torch.allclose(found.constant[[place]], true.constant)
            assert torch.allclose(found.rounding[[place]], true.rounding)
        some = held.select(torch.tensor([1, 4])).terms(multipliers[[1, 4]], values)
        assert torch.allclose(some.constant, found.constant[[1, 4]])


def test_trees_under_a_cutoff_begin_with_the_rows(asked, monkeypatch):
    q, bounds, programs, relaxation, solved = asked
    seen = []
    monkeypatch.setattr(BranchAndBound, "give", lambda self, rows: seen.extend(rows))
    monkeypatch.setattr(Session, "offer", lambda self, points, engine: False)
    session = Session(q)
    session.learn_bounds(bounds)
    given = session.held["rows"] = [
        GivenRows(clause, cuts_of(q, programs, relaxation, solved)) for clause in (0, 99)
    ]
    CutoffEngine()._branch(session, 0, bounds, Budget.of_seconds(20))
    assert seen == given[:1]
