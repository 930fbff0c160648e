"""The encoded program against enumeration, forward passes and counting."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import Bounds, LinearConstraint, linprog, milp

from closegap.core.errors import EncodingError
from closegap.encode import EncodedNetwork, EncodeOptions, Purpose, encode
from closegap.encode.units import CopyUnits, SmoothUnits
from closegap.graph import ops
from closegap.graph.network import Node
from closegap.mip.model import Model
from closegap.specs.property import Property
from closegap.specs.query import Query
from closegap.specs.region import lp_ball
from closegap.testing.enumeration import clause_margin, interval_bounds, least_clause_margin
from tiny_networks import FAMILIES, dense, linear, network, query, residual, samples

#: scipy gives HiGHS a feasibility tolerance of 1e-6, which the weights multiply
TOLERANCE = 2e-5


def solve(model: Model, *, relax: bool = False) -> float:
    """The optimum by scipy's HiGHS; infinity if infeasible."""
    integer = np.zeros(model.columns) if relax else model.integer.astype(int)
    rows = LinearConstraint(model.matrix, model.row_lower, model.row_upper)
    result = milp(
        model.cost,
        integrality=integer,
        bounds=Bounds(model.lower, model.upper),
        constraints=rows if model.matrix.shape[0] else None,
        options={"mip_rel_gap": 0.0},
    )
    return math.inf if result.status == 2 else result.fun + model.constant


def violation(encoded: EncodedNetwork, values: np.ndarray) -> float:
    model = encoded.model
    rows = model.matrix @ values
    return max(
        float(np.max(part, initial=0.0))
        for part in (
            model.row_lower - rows, rows - model.row_upper,
            model.lower - values, values - model.upper,
            np.abs(values - np.round(values))[model.integer],
        )
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("rows", [1, 2])
def test_optimum_equals_enumeration_of_all_regions(family, seed, rows, rng):
    rng = np.random.default_rng([seed, rows])
    q = query(rng, FAMILIES[family](rng), rows=rows, radius=0.4)
    truth = least_clause_margin(q, 0)
    encoded = encode(q, interval_bounds(q), clause=0)
    assert encoded.exact
    # an optimum at a sign's threshold may differ by the gap, times the weights behind it
    tolerance = 1e-4 if "sign" in family else TOLERANCE
    assert solve(encoded.model) == pytest.approx(truth, abs=tolerance)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_relaxation_is_below_and_has_no_integers(family, rng):
    for _ in range(4):
        q = query(rng, FAMILIES[family](rng), radius=0.4)
        bounds = interval_bounds(q)
        exact = encode(q, bounds, clause=0).model
        relaxed = encode(q, bounds, clause=0, options=EncodeOptions(relax=True))
        assert relaxed.model.is_linear and not relaxed.exact
        low, best = solve(relaxed.model), solve(exact)
        assert low <= best + TOLERANCE
        # eliminating the binaries gives no more and no less than dropping integrality
        assert low >= solve(exact, relax=True) - TOLERANCE


@settings(max_examples=60, deadline=None)
@given(
    family=st.sampled_from(sorted(FAMILIES)),
    seed=st.integers(0, 10_000),
    relax=st.booleans(),
    rows=st.integers(1, 3),
    fill=st.sampled_from([0.0, 1.0, math.inf]),
)
def test_forward_passes_are_feasible_with_the_true_objective(family, seed, relax, rows, fill):
    rng = np.random.default_rng(seed)
    q = query(rng, FAMILIES[family](rng), rows=rows)
    options = EncodeOptions(relax=relax, fill=fill)
    encoded = encode(q, interval_bounds(q), clause=0, options=options)
    for point in samples(rng, q, 5):
        start = encoded.start_from(point)
        assert violation(encoded, start) < 1e-9
        wanted = clause_margin(q, 0, point[None])[0]
        assert encoded.objective_at(start) == pytest.approx(wanted, abs=1e-9)
        np.testing.assert_allclose(encoded.point_of(start), point, atol=0)


@pytest.mark.parametrize("activation", [ops.Sigmoid(), ops.Tanh()], ids=["sigmoid", "tanh"])
def test_smooth_activations_are_enclosed(activation, rng):
    for radius in (0.01, 0.3, 2.0):
        net = dense(rng, [3, 6, 5, 2], activation)
        q = query(rng, net, radius=radius)
        encoded = encode(q, interval_bounds(q), clause=0)
        assert not encoded.exact and encoded.model.is_linear
        low = solve(encoded.model)
        points = samples(rng, q, 2000)
        margins = clause_margin(q, 0, points)
        assert low <= margins.min()
        for point, margin in zip(points[:50], margins, strict=False):
            start = encoded.start_from(point)
            assert violation(encoded, start) < 1e-9
            assert encoded.objective_at(start) == pytest.approx(margin, abs=1e-9)
        # the polygon is tight: it closes as the box shrinks
        if radius == 0.01:
            assert low > margins.min() - 1e-2


def test_smooth_polygon_touches_the_curve_from_outside(rng):
    for kind in (ops.Sigmoid(), ops.Tanh()):
        q = query(rng, network(Node(ops.Input(), (), (60,)), Node(kind, (0,), (60,))))
        lower = np.sort(rng.normal(size=60)) * 4
        upper = lower + rng.exponential(size=60) * 3
        bounds = {0: (lower, upper)}
        encoded = encode(q, bounds, clause=0)
        model, block = encoded.model, encoded.units[0]
        assert isinstance(block, SmoothUnits)
        for share in np.linspace(0, 1, 101):
            values = np.zeros(model.columns)
            values[encoded.inputs] = lower + share * (upper - lower)
            block.fill(values)
            rows = model.matrix @ values
            assert (rows >= model.row_lower).all() and (rows <= model.row_upper).all()


def all_phases(q: Query, bounds: dict, point: np.ndarray) -> dict:
    """The phase of every neuron at a point."""
    import torch

    from closegap.runtime.torch_network import TorchNetwork

    runtime = TorchNetwork(q.network, dtype=torch.float64)
    values = runtime.values(runtime.tensor(point)[None])
    return {
        node: np.where(values[node].numpy().reshape(-1) >= 0, 1, -1).astype(np.int8)
        for node in bounds
    }


@pytest.mark.parametrize("family", ["dense", "leaky", "residual", "convolutional", "sign"])
def test_fixed_phases_give_the_region_lp(family, rng):
    from closegap.testing.enumeration import linear_pieces

    q = query(rng, FAMILIES[family](rng), radius=1.0)
    bounds = interval_bounds(q)
    row, offset = q.prop.rows[0], q.prop.offsets[0]
    regions = [
        (region, region.least(row @ out.matrix) + row @ out.constant + offset, out)
        for region, out in linear_pieces(q)
    ]
    assert len(regions) > 2
    for point in samples(rng, q, 6):
        x = point.reshape(-1)
        # the region that holds the point
        inside = [r for r in regions if (r[0].rows @ x <= r[0].limits + 1e-12).all()]
        encoded = encode(q, bounds, clause=0, phases=all_phases(q, bounds, point))
        model = encoded.model
        assert model.is_linear
        assert model.columns == q.network.input_size  # composed: inputs only
        tolerance = 1e-4 if family == "sign" else TOLERANCE
        assert solve(model) == pytest.approx(inside[0][1], abs=tolerance)


def test_some_fixed_phases_split_the_optimum(rng):
    for _ in range(5):
        q = query(rng, dense(rng, [3, 4, 4, 2], ops.Relu()))
        bounds = interval_bounds(q)
        node = q.network.pre_activations[0]
        whole = solve(encode(q, bounds, clause=0).model)
        parts = []
        for sign in (1, -1):
            phase = np.array([0, sign, 0, 0], dtype=np.int8)
            parts.append(solve(encode(q, bounds, clause=0, phases={node: phase}).model))
        assert min(parts) == pytest.approx(whole, abs=TOLERANCE)


def test_a_phase_against_the_bounds_is_infeasible(rng):
    net = network(
        Node(ops.Input(), (), (1,)),
        Node(ops.Linear(np.array([[1.0]]), np.array([-5.0])), (0,), (1,)),
        Node(ops.Relu(), (1,), (1,)),
    )
    prop = Property(np.ones((1, 1)), np.zeros(1), np.zeros(1, dtype=np.int64), True, ("only",))
    q = Query(net, lp_ball(np.array([0.5]), 0.5), prop)
    bounds = interval_bounds(q)
    assert solve(encode(q, bounds, clause=0, phases={1: np.array([1], np.int8)}).model) == math.inf
    assert solve(encode(q, bounds, clause=0, phases={1: np.array([-1], np.int8)}).model) == 0.0


def test_only_undecided_neurons_have_columns(rng):
    q = query(rng, dense(rng, [4, 12, 9, 2], ops.Relu()), radius=0.2)
    bounds = interval_bounds(q)
    undecided = sum(int(((low < 0) & (high > 0)).sum()) for low, high in bounds.values())
    assert 0 < undecided < 21
    encoded = encode(q, bounds, clause=0, options=EncodeOptions(fill=math.inf))
    assert encoded.model.columns == 4 + 3 * undecided
    assert encoded.model.matrix.shape[0] == 3 * undecided
    assert encoded.binaries == undecided == len(encoded.phase_columns)
    relaxed = encode(q, bounds, clause=0, options=EncodeOptions(relax=True, fill=math.inf))
    assert relaxed.model.columns == 4 + 2 * undecided
    assert relaxed.model.matrix.shape[0] == 2 * undecided
    for node, neuron, column in encoded.phase_columns:
        low, high = bounds[node]
        assert low[neuron] < 0 < high[neuron]
        assert encoded.model.integer[column]


def test_phase_columns_name_the_neuron(rng):
    q = query(rng, residual(rng))
    encoded = encode(q, interval_bounds(q), clause=0)
    for point in samples(rng, q, 10):
        start = encoded.start_from(point)
        phases = all_phases(q, interval_bounds(q), point)
        for node, neuron, column in encoded.phase_columns:
            assert start[column] == (phases[node][neuron] > 0)


def test_long_expressions_get_columns_of_their_own(rng):
    """A wide layer of active neurons behind many inputs: composing would multiply the entries."""
    front = [
        Node(ops.Input(), (), (40,)),
        Node(linear(rng, 40, 3), (0,), (3,)),
        Node(linear(rng, 3, 40), (1,), (40,)),
        Node(ops.Shift(np.full(40, 1000.0)), (2,), (40,)),
        Node(ops.Relu(), (3,), (40,)),
        Node(linear(rng, 40, 30), (4,), (30,)),
    ]
    middle = query(np.random.default_rng(1), network(*front, Node(ops.Relu(), (5,), (30,))))
    low, high = interval_bounds(middle)[5]
    back = [
        Node(ops.Shift(-(low + high) / 2), (5,), (30,)),  # every one of the 30 is undecided
        Node(ops.Relu(), (6,), (30,)),
        Node(linear(rng, 30, 2), (7,), (2,)),
    ]
    q = Query(network(*front, *back), middle.region, query(rng, network(*front, *back)).prop)
    bounds = interval_bounds(q)
    composed = encode(q, bounds, clause=0, options=EncodeOptions(fill=math.inf))
    named = encode(q, bounds, clause=0, options=EncodeOptions(fill=1.0))
    assert not any(isinstance(u, CopyUnits) for u in composed.units)
    assert any(isinstance(u, CopyUnits) for u in named.units)
    assert named.model.matrix.nnz < composed.model.matrix.nnz
    assert solve(named.model) == pytest.approx(solve(composed.model), abs=1e-5)


def test_l1_ball_against_its_vertices_and_enumeration(rng):
    net = FAMILIES["dense"](rng)
    center = rng.random(3)
    for radius in (0.05, 0.4):
        region = lp_ball(center, radius, norm=1)
        prop = query(rng, net).prop
        q = Query(net, region, prop)
        encoded = encode(q, interval_bounds(q), clause=0)
        best = solve(encoded.model)
        assert best == pytest.approx(least_clause_margin(q, 0), abs=TOLERANCE)
        box_best = solve(encode(Query(net, region.box, prop), interval_bounds(q), clause=0).model)
        assert box_best <= best + TOLERANCE
        start = encoded.start_from(center)
        assert violation(encoded, start) < 1e-12


def test_l2_ball_is_enclosed_and_says_so(rng):
    net = dense(rng, [4, 2], ops.Relu())  # affine: the least margin has a closed form
    prop = query(rng, net).prop
    center, radius = np.full(4, 0.5), 0.3
    q = Query(net, lp_ball(center, radius, norm=2), prop)
    encoded = encode(q, {}, clause=0)
    gradient = prop.rows[0] @ net.nodes[1].op.weight
    truth = clause_margin(q, 0, center[None])[0] - radius * np.linalg.norm(gradient)
    box_value = clause_margin(q, 0, center[None])[0] - radius * np.abs(gradient).sum()
    assert box_value - TOLERANCE <= solve(encoded.model) <= truth
    assert not encoded.exact and "l2" in encoded.inexact[0]


def test_attack_model_keeps_clear_of_the_zeros_of_signs(rng):
    net = network(
        Node(ops.Input(), (), (1,)),
        Node(ops.Linear(np.array([[1.0], [-1.0]]), np.zeros(2)), (0,), (2,)),
        Node(ops.Sign(1), (1,), (2,)),
    )
    # broken only where both signs are +1, which happens at 0 alone
    prop = Property(-np.ones((1, 2)), np.ones(1), np.zeros(1, dtype=np.int64), False, ("only",))
    q = Query(net, lp_ball(np.zeros(1), 1.0, low=-1.0), prop)
    bounds = interval_bounds(q)
    proof = encode(q, bounds, clause=0)
    attack = encode(q, bounds, clause=0, options=EncodeOptions(purpose=Purpose.ATTACK))
    assert solve(proof.model) == pytest.approx(-1.0)
    assert solve(attack.model) == pytest.approx(1.0)


def test_sign_network_against_brute_force(rng):
    """A network of integers on a grid of integers: every input is tried."""
    for at_zero in (1, 0):
        net = network(
            Node(ops.Input(), (), (4,)),
            Node(ops.Sign(1), (0,), (4,)),
            Node(ops.Linear(rng.choice([-1.0, 1.0], size=(5, 4)), np.zeros(5)), (1,), (5,)),
            Node(ops.Sign(at_zero), (2,), (5,)),
            Node(ops.Linear(rng.normal(size=(3, 5)), np.zeros(3)), (3,), (3,)),
        )
        q = query(rng, net, radius=3.0)
        grid = np.array(np.meshgrid(*[[-1.0, 1.0]] * 4)).reshape(4, -1).T
        brute = clause_margin(q, 0, grid).min()
        best = solve(encode(q, interval_bounds(q), clause=0).model)
        # the closure allows either sign at 0, so a proof's model may be lower, never higher
        assert best <= brute + TOLERANCE
        attack = EncodeOptions(purpose=Purpose.ATTACK)
        assert solve(encode(q, interval_bounds(q), clause=0, options=attack).model) >= (
            brute - TOLERANCE
        )


def test_what_cannot_be_encoded_says_why(rng):
    q = query(rng, FAMILIES["pooled"](rng))
    bounds = interval_bounds(q)
    node = q.network.pre_activations[0]
    with pytest.raises(EncodingError, match="no bounds of node"):
        encode(q, {}, clause=0)
    low, high = bounds[node]
    with pytest.raises(EncodingError, match="not finite"):
        encode(q, {**bounds, node: (low, high + np.inf)}, clause=0)
    with pytest.raises(EncodingError, match="entries, not"):
        encode(q, {**bounds, node: (low[1:], high[1:])}, clause=0)
    with pytest.raises(EncodingError, match="phases of a Max"):
        encode(q, bounds, clause=0, phases={node: np.ones(low.size, dtype=np.int8)})
    with pytest.raises(EncodingError, match="coefficients when written out"):
        encode(q, bounds, clause=0, options=EncodeOptions(entries=3))
    with pytest.raises(ValueError, match="clause 4"):
        encode(q, bounds, clause=4)


def test_linprog_agrees_on_a_relaxed_model(rng):
    """The model's own arrays, in another entry of scipy: rows and bounds mean what they say."""
    q = query(rng, FAMILIES["dense"](rng))
    model = encode(q, interval_bounds(q), clause=0, options=EncodeOptions(relax=True)).model
    equal = model.row_lower == model.row_upper
    upper = np.isfinite(model.row_upper) & ~equal
    result = linprog(
        model.cost,
        A_eq=model.matrix[equal], b_eq=model.row_upper[equal],
        A_ub=model.matrix[upper], b_ub=model.row_upper[upper],
        bounds=np.stack([model.lower, model.upper], axis=1),
    )  # fmt: skip
    assert result.fun + model.constant == pytest.approx(solve(model), abs=TOLERANCE)
