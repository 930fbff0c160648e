"""Corners where a proof once came out wrong, or an engine broke: each is held to the truth."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from closegap.bounds.boxes import box_chain
from closegap.bounds.constraints import CutPart, LinearCuts
from closegap.bounds.forward import forward_activations
from closegap.bounds.interval import propagate
from closegap.bounds.records import Interval
from closegap.bounds.regions import InputSet
from closegap.bounds.rules import activation_rule
from closegap.core.budget import Budget
from closegap.core.errors import ModelError
from closegap.core.verdict import Verdict
from closegap.frontend import loads
from closegap.graph import ops
from closegap.graph.network import Network, Node
from closegap.graph.transform import fuse_affine
from closegap.runtime.torch_network import TorchNetwork
from closegap.specs.property import Property
from closegap.specs.query import Query
from closegap.specs.region import Box
from closegap.strategy.engines.bab import BranchEngine
from closegap.strategy.session import Session
from closegap.strategy.solve import solve
from closegap.testing.enumeration import least_clause_margin
from closegap.testing.networks import onnx_model, random_leaky, random_mlp
from closegap.verify.mip import MipVerifier

PROVERS = ("crown", "alpha-crown", "bab", "input-split", "mip")


def exact(values: list) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def one_row(row: list[float], offset: float) -> Property:
    return Property(
        rows=np.array([row]),
        offsets=np.array([offset]),
        clause=np.zeros(1, dtype=np.int64),
        strict=False,
        names=("only",),
    )


def cube(size: int, radius: float = 1.0) -> Box:
    return Box(np.full(size, -radius), np.full(size, radius))


def two_layers(first: float, second: float) -> Network:
    """`-second * sum relu(first * W x + b)` with x of two entries."""
    nodes = [
        helper.make_node("Gemm", ["input", "w", "b"], ["h"]),
        helper.make_node("Relu", ["h"], ["a"]),
        helper.make_node("Gemm", ["a", "v"], ["output"]),
    ]
    weights = {
        "w": first * np.array([[1.0, -1.0], [1.0, 2.0]]),
        "b": np.array([0.01, 0.0]) / second,
        "v": np.full((2, 1), -second),
    }
    return loads(onnx_model(nodes, weights, ["N", 2]), "two layers", check=False)


@pytest.mark.parametrize("seed", [30, 34, 38])
def test_rounded_warm_starts_prove_nothing_wrong_of_leaky_relus(seed):
    """Warm starts are kept in half precision, where a slope of 0.1 becomes a little less."""
    rng = np.random.default_rng(seed)
    network = random_leaky(rng, [2, 6, 5, 3], slope=0.1)
    least = least_clause_margin(Query(network, cube(2), one_row([1.0, -1.0, 0.0], 0.0)), 0)
    session = Session(Query(network, cube(2), one_row([1.0, -1.0, 0.0], -least - 1e-6)))
    session.offer = lambda points, engine: False  # nothing but the proof
    BranchEngine().run(session, Budget.of_seconds(4))
    assert session.bracket.lower <= 0


@pytest.mark.parametrize("op", [ops.Relu(), ops.LeakyRelu(0.1)])
def test_lower_lines_hold_for_slopes_out_of_range(op):
    rule, node = activation_rule(op), Node(op, (0,), (1,))
    bounds = Interval(exact([[-1.0]]), exact([[2.0]]))
    z = torch.linspace(-1, 2, 31).double()
    value = torch.where(z > 0, z, z * getattr(op, "slope", 0.0))
    for alpha in (-0.5, 0.0999, 1.01):
        lines = rule.relax(node, bounds, torch.full((1, 1, 1), alpha).double())
        assert (lines.lower_slope.flatten() * z <= value + 1e-12).all()


@pytest.mark.parametrize("size", [1e-20, 1e-31, 1e-44])
def test_relu_lines_hold_on_tiny_intervals(size):
    rule, node = activation_rule(ops.Relu()), Node(ops.Relu(), (0,), (1,))
    bounds = Interval(exact([[-size]]), exact([[size]]))
    lines = rule.relax(node, bounds, None)
    assert lines.upper_intercept is not None
    above = lines.upper_slope * size + lines.upper_intercept
    assert float(above) >= size * (1 - 1e-12)


@pytest.mark.parametrize("size", [1e-20, 1e-31, 1e-44])
def test_max_lines_hold_on_tiny_intervals(size):
    rule, node = activation_rule(ops.Max()), Node(ops.Max(), (0,), ())
    bounds = Interval(exact([[[-size, -size]]]), exact([[[size, size]]]))
    lines = rule.relax(node, bounds, None)
    assert lines.upper_intercept is not None
    for point in ([size, size], [size, -size], [-size, size], [-size, -size]):
        z = exact(point)
        above = (lines.upper_slope * z).sum() + lines.upper_intercept
        assert float(above) >= max(point) - 1e-12 * size


@pytest.mark.parametrize("engine", PROVERS)
@pytest.mark.parametrize("scale", [1e-6, 1e-9, 1e-13, 1e-31])
def test_networks_with_tiny_hidden_values(engine, scale):
    """The same function whatever the scale of its hidden layer: its least margin is negative."""
    reference = two_layers(1.0, 1.0)
    least = least_clause_margin(Query(reference, cube(2), one_row([1.0], 0.0)), 0)
    query = Query(two_layers(scale, 1 / scale), cube(2), one_row([1.0], -least - 0.01))
    assert solve(query, engines=(engine,), timeout=5).verdict is not Verdict.VERIFIED


@pytest.mark.parametrize("engine", PROVERS)
@pytest.mark.parametrize("radius", [1e-6, 1e-9, 1e-13, 1e-31])
def test_tiny_boxes_before_large_weights(engine, radius):
    reference = two_layers(1.0, 1.0)
    least = least_clause_margin(Query(reference, cube(2), one_row([1.0], 0.0)), 0)
    query = Query(two_layers(1 / radius, 1.0), cube(2, radius), one_row([1.0], -least - 0.01))
    assert solve(query, engines=(engine,), timeout=5).verdict is not Verdict.VERIFIED


@pytest.mark.parametrize("engine", PROVERS)
@pytest.mark.parametrize("offset", [0.85, 0.95])
def test_an_activation_of_the_input_itself(engine, offset):
    """`relu(x)` first, then one layer: the least margin is -0.9, where x = (0, 1) or so."""
    nodes = [
        helper.make_node("Relu", ["input"], ["a"]),
        helper.make_node("Gemm", ["a", "w"], ["output"]),
    ]
    network = loads(onnx_model(nodes, {"w": np.array([[0.3], [-0.9]])}, ["N", 2]))
    result = solve(Query(network, cube(2), one_row([1.0], offset)), engines=(engine,), timeout=5)
    wrong = Verdict.VERIFIED if offset < 0.9 else Verdict.FALSIFIED
    assert result.verdict is not wrong
    if engine in ("bab", "mip"):
        assert result.verdict is not Verdict.UNKNOWN


@pytest.mark.parametrize("engine", PROVERS)
def test_a_region_of_one_point(engine, rng):
    network = random_mlp(rng, [2, 4, 3])
    point = np.array([0.125, 0.25])
    session = Session(Query(network, Box(point, point), one_row([1.0, -1.0, 0.0], 0.0)))
    session.offer(point[None], "clean")
    margin = session.bracket.upper
    for shift, never in ((0.1, Verdict.FALSIFIED), (-0.1, Verdict.VERIFIED)):
        query = Query(network, Box(point, point), one_row([1.0, -1.0, 0.0], shift - margin))
        assert solve(query, engines=(engine,), timeout=5).verdict is not never


@pytest.mark.parametrize("activation", [None, ops.Relu(), ops.LeakyRelu(0.5)])
def test_intervals_hold_what_underflow_hides(activation: ops.Op | None) -> None:
    """Nine factors of 1e-36 and nine of 1e36 make 1, on the way and when they are fused."""
    nodes = [Node(ops.Input(), (), (2,))]
    for factor in [1e-36] * 9 + [1e36] * 9:
        weight = ops.Linear(np.array([[factor, 0.0], [0.0, 0.0]]), np.zeros(2))
        nodes.append(Node(weight, (len(nodes) - 1,), (2,)))
        if activation is not None:
            nodes.append(Node(activation, (len(nodes) - 1,), (2,)))
    net = fuse_affine(Network(nodes=tuple(nodes), onnx_bytes=b"", digest="tiny", batch=1))
    end = propagate(
        TorchNetwork(net, dtype=torch.float64), InputSet(exact([[0.1, 0]]), exact([[1, 1]]))
    )
    assert end[-1].upper[0, 0] >= 0.999
    assert end[-1].lower[0, 1] == end[-1].upper[0, 1] == 0  # terms that are zero stay so


def hidden_kink(tiny: float, large: float) -> Network:
    """`tiny^2 large |x|`: the kink is where values are below float64's numbers."""
    steps = [
        ops.Linear(np.array([[1.0], [0.0]]), np.ones(2)),
        ops.Linear(tiny * np.eye(2), np.zeros(2)),
        ops.Linear(tiny * np.array([[1.0, -1.0], [-1.0, 1.0]]), np.zeros(2)),
        ops.Linear(large * np.eye(2), np.zeros(2)),
    ]
    nodes = [Node(ops.Input(), (), (1,))]
    for step in steps:
        nodes.append(Node(step, (len(nodes) - 1,), (2,)))
        nodes.append(Node(ops.Relu(), (len(nodes) - 1,), (2,)))
    nodes.append(Node(ops.Linear(np.ones((1, 2)), np.zeros(1)), (len(nodes) - 1,), (1,)))
    return Network(nodes=tuple(nodes), onnx_bytes=b"", digest="kink", batch=1)


@pytest.mark.parametrize(("tiny", "large"), [(1e-200, 1e300), (1e-300, 1e300)])
def test_bounds_of_boxes_hold_what_underflow_hides(tiny: float, large: float) -> None:
    network = TorchNetwork(hidden_kink(tiny, large), dtype=torch.float64)
    low, high, free = exact([-1.0]), exact([1.0]), torch.arange(1)
    most = 0.999 * tiny * large * tiny
    forward = forward_activations(network, InputSet(low[None], high[None]), free).values[-1]
    assert float(forward.upper) >= most
    chain = box_chain(network, low, high, free)
    assert chain is not None
    found = chain.bound(low[None], high[None], exact([[-1.0]]), torch.zeros(1, chain.signs).char())
    assert float(found.constant - found.planes.abs().sum() - found.loss) <= -most


def test_composed_programs_refuse_what_underflow_hides() -> None:
    nodes = [Node(ops.Input(), (), (1,))]
    for factor in [1e-200, 1e-200, 1e200, 1e200]:
        nodes.append(Node(ops.Linear(np.array([[factor]]), np.zeros(1)), (len(nodes) - 1,), (1,)))
    network = Network(nodes=tuple(nodes), onnx_bytes=b"", digest="tiny", batch=1)
    query = Query(network, cube(1), one_row([-1.0], 0.5))
    found = MipVerifier().bound_clause(query, {}, 0, Budget.of_seconds(2))
    assert found.lower <= -0.5
    assert "below float64's range" in found.detail


def test_weights_that_are_not_normal_numbers_are_refused() -> None:
    tiny = numpy_helper.from_array(np.array([[1e-320, 1.0], [1.0, 1.0]]))
    nodes = [
        helper.make_node("Constant", [], ["w"], value=tiny),
        helper.make_node("Cast", ["input"], ["wide"], to=TensorProto.DOUBLE),
        helper.make_node("MatMul", ["wide", "w"], ["z"]),
        helper.make_node("Cast", ["z"], ["output"], to=TensorProto.FLOAT),
    ]
    with pytest.raises(ModelError, match=r"weight of 9\.99\S*e-321.*set it to zero"):
        loads(onnx_model(nodes, {}, (1, 2)))


def test_what_underflow_takes_from_cuts_is_allowed_for() -> None:
    size, weight, held, reach = 2, 1e-200, 1e-200, 1e50
    part = CutPart.of(
        1, (size,), torch.arange(size), torch.full((1, size), weight, dtype=torch.float64)
    )
    cuts = LinearCuts((part,), torch.full((1,), weight, dtype=torch.float64))
    most = torch.full((1, size), reach, dtype=torch.float64)
    multipliers = torch.full((1, 1, 1), held, dtype=torch.float64)
    found = cuts.terms(multipliers, [Interval(-most, most)] * 2)
    assert not found.coefficients[1].any()
    lost = Fraction(held) * Fraction(weight) * (size * Fraction(reach) + 1)
    assert Fraction(float(found.rounding)) >= lost
