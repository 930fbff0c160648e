"""Rows on windows give what rows on whole images give, and no rounding is forgotten."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch

from closegap.bounds.backward import BackwardPass
from closegap.bounds.crossing import cross, with_slopes
from closegap.bounds.intermediate import bound_activations
from closegap.bounds.interval import propagate
from closegap.bounds.records import Interval, LinearBound, Parameters, Relaxation
from closegap.bounds.regions import input_set
from closegap.bounds.rules import activation_rule
from closegap.bounds.tiles import group_by_tile
from closegap.bounds.windows import Window, plan_windows, products, whole
from closegap.core.budget import Budget
from closegap.graph import ops
from closegap.graph.network import Network, Node
from closegap.runtime.torch_network import TorchNetwork
from closegap.specs.region import lp_ball

SIDE = 12
#: Two float64 passes over the same numbers in another order differ by less.
RELATIVE = 1e-12


def conv(
    rng: np.random.Generator,
    channels: tuple[int, int],
    kernel: tuple[int, int],
    *,
    stride: tuple[int, int] = (1, 1),
    pads: tuple[int, int, int, int] = (0, 0, 0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
) -> ops.Conv:
    """A convolution `channels[0] -> channels[1]` with random weights."""
    weight = rng.normal(size=(channels[1], channels[0] // groups, *kernel)) / 2
    return ops.Conv(weight, rng.normal(size=channels[1]), stride, pads, dilation, groups)


def network(*steps: tuple[ops.Op, tuple[int, ...]], channels: int = 2) -> Network:
    """A graph of ops on an image of `channels`; shapes are found by running it."""
    nodes = [Node(ops.Input(), (), (channels, SIDE, SIDE + 1))]
    values = [torch.zeros(1, *nodes[0].shape, dtype=torch.float64)]
    for op, inputs in steps:
        node = Node(op, inputs, _shape(op, [values[i] for i in inputs]))
        nodes.append(node)
        values.append(torch.zeros(1, *node.shape, dtype=torch.float64))
    return Network(tuple(nodes), b"", "", None)


def _shape(op: ops.Op, values: list[torch.Tensor]) -> tuple[int, ...]:
    shape = tuple(values[0].shape[1:])
    if isinstance(op, ops.Conv):
        sides = zip(
            shape[1:], op.pads[:2], op.pads[2:], op.dilation, op.weight.shape[2:], op.stride,
            strict=True,
        )  # fmt: skip
        size = tuple((n + b + a - d * (k - 1) - 1) // s + 1 for n, b, a, d, k, s in sides)
        return (op.weight.shape[0], *size)
    if isinstance(op, ops.Take):
        return tuple(op.indices.shape)
    return shape[:-1] if isinstance(op, ops.Max) else shape


def residual(rng: np.random.Generator) -> Network:
    """Two strides down, a block with a shortcut of one tap, another with the identity."""
    return network(
        (conv(rng, (2, 3), (3, 3), stride=(2, 2), pads=(1, 1, 1, 1)), (0,)),
        (ops.Relu(), (1,)),
        (conv(rng, (3, 4), (3, 3), pads=(1, 1, 1, 1)), (2,)),
        (ops.Relu(), (3,)),
        (conv(rng, (4, 3), (3, 3), pads=(1, 1, 1, 1)), (4,)),
        (conv(rng, (3, 3), (1, 1)), (2,)),
        (ops.Add(), (5, 6)),
        (ops.Relu(), (7,)),
        (ops.Add(), (8, 7)),
        (ops.LeakyRelu(0.1), (9,)),
    )


def mixed(rng: np.random.Generator) -> Network:
    """Groups, dilation, uneven pads and strides, scales, shifts, smooth activations."""
    return network(
        (conv(rng, (2, 4), (2, 3), stride=(1, 2), pads=(0, 2, 3, 1), groups=2), (0,)),
        (ops.Relu(), (1,)),
        (ops.Scale(rng.normal(size=(4, 1, 1))), (2,)),
        (ops.Shift(rng.normal(size=(4, 1, 7))), (3,)),
        (ops.Tanh(), (4,)),
        (conv(rng, (4, 2), (3, 2), dilation=(2, 3), pads=(1, 2, 3, 0)), (5,)),
        (ops.Relu(), (6,)),
    )


def pooled(rng: np.random.Generator) -> Network:
    """Average pooling as a depthwise convolution, taken windows with a maximum, and on."""
    depthwise = ops.Conv(np.full((2, 1, 2, 2), 0.25), np.zeros(2), (2, 2), (0, 0, 0, 0), (1, 1), 2)
    pairs = np.arange(2 * 12 * 12).reshape(2, 12, 6, 2)
    return network(
        (conv(rng, (2, 2), (3, 2), pads=(1, 0, 1, 0)), (0,)),
        (ops.Relu(), (1,)),
        (ops.Take(pairs.astype(np.int64)), (2,)),
        (ops.Max(), (3,)),
        (depthwise, (4,)),
        (ops.Relu(), (5,)),
        (conv(rng, (2, 2), (3, 3), pads=(4, 4, 4, 4)), (6,)),
        (ops.Relu(), (7,)),
    )


MAKERS = {"residual": residual, "mixed": mixed, "pooled": pooled}


def bounder_of(
    net: Network, rng: np.random.Generator, radius: float
) -> tuple[BackwardPass, Interval]:
    exact = TorchNetwork(net, dtype=torch.float64)
    center = rng.uniform(0.2, 0.8, net.input_shape).astype(np.float32)
    region = input_set(exact, lp_ball(center, radius, norm=np.inf))
    values = propagate(exact, region)
    bounds = {i: values[i] for i in net.pre_activations}
    return BackwardPass(exact, bounds, values), values[0]


def windows_of(shape: tuple[int, ...]) -> list[Window]:
    """Corners, an edge, the middle, and a larger part."""
    height, width = shape[1:]
    return [
        Window(0, 0, 1, 1),
        Window(height - 1, width - 1, 1, 1),
        Window(0, width // 2, 1, 2),
        Window(height // 2, width // 2, 1, 1),
        Window(height // 3, 0, min(2, height), min(3, width)),
    ]


@pytest.mark.parametrize("kind", MAKERS)
def test_windowed_and_whole_passes_agree(kind: str, rng: np.random.Generator) -> None:
    net = MAKERS[kind](rng)
    bounder, _ = bounder_of(net, rng, 0.3)
    slopes = {}
    for index in net.activations:
        node = net.nodes[index]
        rule = activation_rule(node.op)
        first = rule.default(node, bounder.bounds[node.inputs[0]])[:, None]
        moved = first + torch.as_tensor(rng.uniform(-0.4, 0.4, (1, 3, *first.shape[2:])))
        slopes[index] = rule.project(node, moved, bounder.bounds[node.inputs[0]])
    used = 0
    images = [i for i in range(1, len(net.nodes)) if len(net.nodes[i].shape) == 3]
    for start, window in ((i, w) for i in images for w in windows_of(net.nodes[i].shape)):
        shape = net.nodes[start].shape
        plan = plan_windows(net, start, window)
        part = torch.as_tensor(rng.normal(size=(1, 3, shape[0], window.height, window.width)))
        full = window.place(part, whole(shape))
        used += len(plan)
        for chosen in (Parameters(), Parameters(slopes)):
            want = bounder.run(start, full, chosen, keep_incoming=True)
            rows = part if start in plan else full
            agree(bounder.run(start, rows, chosen, keep_incoming=True, windows=plan), want)
    assert used > len(net.nodes)


def agree(found: LinearBound, want: LinearBound) -> None:
    """Both passes say the same, up to rounding."""
    for name in ("coefficients", "constant", "rounding"):
        left, right = getattr(found, name), getattr(want, name)
        assert torch.allclose(left, right, rtol=0, atol=RELATIVE * float(right.abs().max()))
    assert found.incoming.keys() == want.incoming.keys()
    for index, coefficients in want.incoming.items():
        assert torch.allclose(found.incoming[index], coefficients, rtol=0, atol=1e-11)


def test_split_multipliers_want_whole_rows(rng: np.random.Generator) -> None:
    net = residual(rng)
    bounder, _ = bounder_of(net, rng, 0.1)
    plan = plan_windows(net, 3, Window(0, 0, 1, 1))
    splits = Parameters(splits={1: torch.zeros(1, 1, *net.nodes[1].shape, dtype=torch.float64)})
    with pytest.raises(ValueError, match="whole rows"):
        bounder.run(3, torch.ones(1, 1, 4, 1, 1, dtype=torch.float64), splits, windows=plan)


@pytest.mark.parametrize(("norm", "radius"), [(np.inf, 0.05), (2, 0.4), (1, 0.7)])
@pytest.mark.parametrize("kind", MAKERS)
def test_tiles_change_no_bound(
    kind: str, norm: float, radius: float, rng: np.random.Generator
) -> None:
    """Of boxes and of balls, of which rows on windows see what lies in the window."""
    net = MAKERS[kind](rng)
    exact = TorchNetwork(net, dtype=torch.float64)
    center = rng.uniform(0.2, 0.8, net.input_shape).astype(np.float32)
    region = input_set(exact, lp_ball(center, radius, norm=norm))
    tiled = bound_activations(exact, region, Budget())
    undivided = bound_activations(exact, region, Budget(), tiles=False)
    for index, want in undivided.activations.items():
        size = float(want.magnitude.max())
        assert torch.allclose(tiled.activations[index].lower, want.lower, atol=1e-11 * size)
        assert torch.allclose(tiled.activations[index].upper, want.upper, atol=1e-11 * size)


def test_tiles_hold_every_neuron_once_and_cost_less(rng: np.random.Generator) -> None:
    wide = conv(rng, (2, 16), (3, 3), pads=(1, 1, 1, 1))
    deep = conv(rng, (16, 16), (3, 3), pads=(1, 1, 1, 1))
    net = network((wide, (0,)), (ops.Relu(), (1,)), (deep, (2,)), (ops.Relu(), (3,)))
    neurons = torch.as_tensor(rng.permutation(net.nodes[3].size)[:1500]).sort().values
    places = torch.stack([torch.zeros_like(neurons), neurons], dim=1)
    chunks = group_by_tile(net, 3, places)
    assert len(chunks) > 1
    assert torch.equal(torch.cat([part[:, 1] for part, _ in chunks]).sort().values, neurons)
    costs = [len(part) * products(net, 3, plan)[0] for part, plan in chunks]
    assert sum(costs) < len(places) * products(net, 3, {})[0] / 2


def exact_conv(op: ops.Conv, image: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The convolution of fractions, by its definition."""
    top, left, bottom, right = op.pads
    padded = np.full(
        (image.shape[0], image.shape[1] + top + bottom, image.shape[2] + left + right), Fraction(0)
    )
    padded[:, top : top + image.shape[1], left : left + image.shape[2]] = image
    out = np.empty(shape, dtype=object)
    each = shape[0] // op.groups
    inner = op.weight.shape[1]
    for c, y, x in np.ndindex(*shape):
        total = Fraction(float(op.bias[c]))
        for i, j, k in np.ndindex(*op.weight.shape[1:]):
            pixel = padded[
                (c // each) * inner + i,
                y * op.stride[0] + j * op.dilation[0],
                x * op.stride[1] + k * op.dilation[1],
            ]
            total += Fraction(float(op.weight[c, i, j, k])) * pixel
        out[c, y, x] = total
    return out


def exact_values(net: Network, point: np.ndarray) -> list[np.ndarray]:
    """Every node's value in exact arithmetic."""
    values = [np.vectorize(lambda v: Fraction(float(v)), otypes=[object])(point)]
    for node in net.nodes[1:]:
        parents = [values[p] for p in node.inputs]
        if isinstance(node.op, ops.Conv):
            values.append(exact_conv(node.op, parents[0], node.shape))
        elif isinstance(node.op, ops.Add):
            values.append(parents[0] + parents[1])
        else:
            slope = Fraction(getattr(node.op, "slope", 0.0))
            values.append(np.where(parents[0] > 0, parents[0], slope * parents[0]))
    return values


@pytest.mark.parametrize("radius", [0.0, 0.02, 0.4])
@pytest.mark.parametrize("windowed", [False, True])
def test_the_allowance_covers_exact_arithmetic(
    windowed: bool, radius: float, rng: np.random.Generator
) -> None:
    net = residual(rng)
    bounder, box = bounder_of(net, rng, radius)
    share = rng.uniform(size=net.input_shape)
    point = box.lower[0].numpy() + share * (box.upper - box.lower)[0].numpy()
    truth = exact_values(net, np.clip(point, box.lower[0].numpy(), box.upper[0].numpy()))
    lost = 0
    for start, which in ((s, w) for s in (3, 7, 10) for w in range(4)):
        shape = net.nodes[start].shape
        window = windows_of(shape)[which]
        rows = torch.as_tensor(rng.normal(size=(1, 2, shape[0], window.height, window.width)))
        plan = plan_windows(net, start, window) if windowed else {}
        part = rows if start in plan else window.place(rows, whole(shape))
        linear = bounder.run(start, part, windows=plan)
        for row in range(2):
            value = dot_exact(rows[0, row].numpy(), cropped(window, truth[start]))
            bound = dot_exact(linear.coefficients[0, row].numpy(), truth[0])
            bound += Fraction(float(linear.constant[0, row]))
            allowance = Fraction(float(linear.rounding[0, row]))
            assert value >= bound - allowance
            lost += value < bound
            if radius == 0.0:  # nothing is relaxed: both sides are one number
                assert abs(value - bound) <= allowance
    assert radius > 0.0 or lost > 0  # float arithmetic alone would have been wrong


def cropped(window: Window, image: np.ndarray) -> np.ndarray:
    """The window's part of an image of fractions."""
    rows = slice(window.top, window.top + window.height)
    return image[:, rows, window.left : window.left + window.width]


def dot_exact(left: np.ndarray, right: np.ndarray) -> Fraction:
    """A dot product of floats with fractions."""
    pairs = zip(left.ravel(), right.ravel(), strict=True)
    return sum((Fraction(float(a)) * b for a, b in pairs), Fraction(0))


def test_the_gradient_of_a_crossing_is_that_of_its_definition(rng: np.random.Generator) -> None:
    rows = torch.as_tensor(rng.normal(size=(2, 3, 5))).requires_grad_()
    slope = torch.as_tensor(rng.uniform(size=(2, 3, 5))).requires_grad_()
    upper = torch.as_tensor(rng.uniform(size=(2, 1, 5)))
    intercept = torch.as_tensor(rng.uniform(size=(2, 1, 5)))
    lines = Relaxation(slope, upper, None, intercept, torch.ones_like(upper))
    weights = torch.as_tensor(rng.normal(size=(2, 3, 5)))
    moved, constant = cross(rows, rows, lines)
    assert constant is not None
    found = torch.autograd.grad((moved * weights).sum() + (constant**2).sum(), (rows, slope))
    plain = rows * torch.where(rows > 0, slope, upper)
    height = (rows.clamp(max=0) * intercept).sum(2)
    want = torch.autograd.grad((plain * weights).sum() + (height**2).sum(), (rows, slope))
    assert torch.allclose(moved, plain)
    assert torch.allclose(constant, height)
    for left, right in zip(found, want, strict=True):
        assert torch.allclose(left, right)


@pytest.mark.parametrize("op", [ops.Relu(), ops.LeakyRelu(0.1)])
def test_other_slopes_need_no_other_relaxation(op: ops.Op, rng: np.random.Generator) -> None:
    node = Node(op, (0,), (40,))
    lower = torch.as_tensor(rng.normal(size=(2, 40)))
    bounds = Interval(lower, lower + torch.as_tensor(rng.uniform(0, 2, (2, 40))))
    rule = activation_rule(op)
    slopes = rule.project(node, torch.as_tensor(rng.uniform(size=(2, 3, 40))), bounds)
    want = rule.relax(node, bounds, slopes)
    found = with_slopes(rule.relax(node, bounds, None), slopes)
    assert found.choice is not None
    assert torch.equal(found.choice[:, 0] == 1, (lower < 0) & (bounds.upper > 0))
    assert torch.equal(found.lower_slope, want.lower_slope)
    assert torch.equal(found.upper_slope, want.upper_slope)
