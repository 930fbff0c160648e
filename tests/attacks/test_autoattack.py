"""APGD, FAB, Square, DI-FGSM and DAA against closed forms, and the ensembles they make."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from closegap.attacks.activation.query_attack import run_attack
from closegap.attacks.gradient.apgd import apgd_targeted
from closegap.attacks.gradient.auto_descent import AutoDescent, checkpoints
from closegap.attacks.gradient.autoattack import autoattack, autoattack_plus
from closegap.attacks.gradient.distributional import interaction
from closegap.attacks.gradient.diverse_inputs import shrink_and_shift
from closegap.attacks.gradient.ensemble import Ensemble
from closegap.attacks.gradient.fab import Boundary
from closegap.attacks.gradient.hyperplane import gauge, to_hyperplane
from closegap.attacks.gradient.loop import run
from closegap.attacks.gradient.losses import LogitsRatioLoss, MarginLoss
from closegap.attacks.gradient.method import EVERY_CLAUSE
from closegap.attacks.gradient.options import AttackOptions
from closegap.attacks.gradient.problem import build_problem, with_targets
from closegap.attacks.gradient.square import SquareSearch, window_share
from closegap.attacks.gradient.windows import Grid, two_humps
from closegap.attacks.projection import batch_regions
from closegap.attacks.registry import make_attack
from closegap.core.budget import Budget
from closegap.graph.network import Network, Node
from closegap.graph.ops import Input, Linear, Reshape
from closegap.runtime.torch_network import TorchNetwork
from closegap.specs.property import Property
from closegap.specs.query import Query, robustness
from closegap.specs.region import bounding_box, lp_ball
from closegap.testing.networks import random_conv, random_mlp


def affine(rng: np.random.Generator, shape: tuple[int, ...], classes: int = 4) -> Network:
    """Linear in the flattened inputs."""
    size = math.prod(shape)
    nodes = [Node(Input(), (), shape)]
    if len(shape) > 1:
        nodes.append(Node(Reshape(), (0,), (size,)))
    layer = Linear(rng.normal(size=(classes, size)), rng.normal(size=classes))
    nodes.append(Node(layer, (len(nodes) - 1,), (classes,)))
    return Network(nodes=tuple(nodes), onnx_bytes=b"", digest="affine", batch=1)


def rows_of(query: Query) -> tuple[np.ndarray, np.ndarray]:
    layer = query.network.nodes[-1].op
    assert isinstance(layer, Linear)
    return query.prop.rows @ layer.weight, query.prop.rows @ layer.bias + query.prop.offsets


def lift(query: Query, by: float) -> Query:
    prop = query.prop
    raised = Property(prop.rows, prop.offsets + by, prop.clause, True, prop.names, prop.label)
    return Query(query.network, query.region, raised)


def least_in_box(query: Query) -> float:
    rows, constants = rows_of(query)
    box = bounding_box(query.region)
    low, high = box.lower.reshape(-1), box.upper.reshape(-1)
    return float((np.minimum(rows * low, rows * high).sum(axis=1) + constants).min())


def least_radius(query: Query, norm: float) -> float:
    """The distance from the image to the nearest point that an affine network misclassifies."""
    rows, constants = rows_of(query)
    assert query.center is not None
    image = query.center.reshape(-1).astype(np.float64)
    dual = {math.inf: 1, 2.0: 2, 1.0: math.inf}[norm]
    sizes = np.linalg.norm(rows, ord=dual, axis=1)
    return float(((rows @ image + constants) / sizes).min())


@pytest.mark.parametrize("targets", [0, EVERY_CLAUSE])
@pytest.mark.parametrize("loss", [MarginLoss(), LogitsRatioLoss()])
def test_apgd_finds_the_corner_of_an_affine_network(
    rng: np.random.Generator, loss: MarginLoss | LogitsRatioLoss, targets: int
) -> None:
    network = affine(rng, (12,))
    query = lift(robustness(network, rng.random(12), 1, 0.3), 50.0)
    method = AutoDescent("apgd", loss=MarginLoss(), targets=EVERY_CLAUSE, steps=40)
    (outcome,) = run(TorchNetwork(network), [query], method, Budget())
    assert outcome.margin == pytest.approx(least_in_box(query), abs=1e-3)
    other = AutoDescent("apgd", loss=loss, targets=targets, steps=40, restarts=3)
    (found,) = run(TorchNetwork(network), [query], other, Budget())
    assert least_in_box(query) - 1e-3 <= found.margin


def test_apgd_halves_step_sizes_at_the_published_checkpoints() -> None:
    assert list(checkpoints(100).items())[:4] == [(22, 22), (41, 19), (57, 16), (70, 13)]
    assert list(checkpoints(100))[-1] <= 100
    assert min(checkpoints(1000).values()) == 60
    assert checkpoints(3)[1] == 1


def test_the_ratio_of_logits_knows_no_scale(rng: np.random.Generator) -> None:
    network = random_mlp(rng, [4, 8, 6])
    query = robustness(network, rng.random(4), 2, 0.1)
    problem = build_problem(TorchNetwork(network), [query], [0])
    problem = with_targets(problem, torch.rand(1, problem.clauses), EVERY_CLAUSE, range(5))
    outputs = torch.tensor(rng.normal(size=(1, 5, 6)), dtype=torch.float32)
    loss = LogitsRatioLoss()
    value = loss(problem, outputs, 0)
    torch.testing.assert_close(loss(problem, 100 * outputs, 0), value)
    ranked = outputs[0, 0].sort(descending=True).values
    row = int(problem.target[0, 0])
    rival = int(np.flatnonzero(query.prop.rows[row] < 0)[0])
    spread = ranked[0] - (ranked[2] + ranked[3]) / 2
    torch.testing.assert_close(value[0, 0], (outputs[0, 0, 2] - outputs[0, 0, rival]) / spread)


def bisected(w: np.ndarray, gap: float, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The shortest d in a box with `w . d = gap`: `clip(t w)` for the t that bisection finds."""
    least, most = -1e4, 1e4
    for _ in range(200):
        t = (least + most) / 2
        less = w @ np.clip(t * w, low, high) < gap
        least, most = (t, most) if less else (least, t)
    return np.asarray(np.clip(most * w, low, high))


@pytest.mark.parametrize("norm", [1.0, 2.0, math.inf])
def test_the_way_to_a_plane_is_the_shortest(rng: np.random.Generator, norm: float) -> None:
    for _ in range(5):
        image, size = rng.random(6), 6
        regions = batch_regions([lp_ball(image, 0.4, norm=norm)])
        normal = torch.tensor(rng.normal(size=(1, 1, size)), dtype=torch.float32)
        point = regions.center[:, None] + 0.1 * regions.unit[:, None] * torch.randn(1, 1, size)
        point = torch.maximum(torch.minimum(point, regions.upper[:, None]), regions.lower[:, None])
        gap = torch.tensor([[float(rng.normal()) * 0.3]])
        step = to_hyperplane(regions, point, normal, gap)
        w, g = normal.double().numpy().ravel(), float(gap)
        low = (regions.lower - point[:, 0]).double().numpy().ravel()
        high = (regions.upper - point[:, 0]).double().numpy().ravel()
        found = step.double().numpy().ravel()
        assert w @ found == pytest.approx(g, abs=1e-5)
        if norm == math.inf:
            half = regions.unit.double().numpy().ravel()
            least = abs(g) / (np.abs(w) * half).sum()
            assert np.abs(found / half).max() == pytest.approx(least, rel=1e-4)
            continue
        assert (found >= low - 1e-6).all() and (found <= high + 1e-6).all()
        if norm == 1:
            lp = linprog(
                np.ones(2 * size),
                A_eq=np.concatenate([w, -w])[None],
                b_eq=[g],
                bounds=[(0, max(0, b)) for b in np.concatenate([high, -low])],
            )
            assert np.abs(found).sum() == pytest.approx(lp.fun, abs=1e-4)
            continue
        best = bisected(w, g, low, high)
        assert found @ found <= best @ best + 1e-5


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("norm", [1.0, 2.0, math.inf])
def test_fab_breaks_an_affine_network_just_beyond_its_least_radius(
    rng: np.random.Generator, norm: float, together: bool
) -> None:
    """Nothing inside the least radius; a counterexample as soon as the ball is a little larger."""
    network = affine(rng, (10,))
    image = 0.4 + 0.2 * rng.random(10)
    lens = TorchNetwork(network)
    with torch.no_grad():
        label = int(lens(lens.tensor(image[None])).argmax())
    radius = least_radius(robustness(network, image, label, 0.0), norm)
    assert 0 < radius < 0.4
    queries = [robustness(network, image, label, radius * s, norm=norm) for s in (0.98, 1.06)]
    method = Boundary("fab", targets=EVERY_CLAUSE, together=together, rounds=20)
    below, above = run(lens, queries, method, Budget())
    assert below.margin > 0
    assert above.margin < 0


def test_untargeted_fab_survives_a_wave_that_is_cut(rng: np.random.Generator) -> None:
    network = random_mlp(rng, [5, 12, 6])
    query = robustness(network, rng.random(5), 1, 0.05)
    method = make_attack("fab", AttackOptions(steps=5, restarts=3))
    for memory in (1, 5000, 10**9):
        (outcome,) = run_attack(TorchNetwork(network), [query], method, Budget(memory=memory))
        assert len(outcome.margins) > 0


def test_the_gauge_is_one_at_the_rim(rng: np.random.Generator) -> None:
    for norm in (1.0, 2.0, math.inf):
        regions = batch_regions([lp_ball(np.full(4, 0.5), 0.2, norm=norm)])
        corner = regions.center[:, None] + torch.tensor([[[0.2, 0.0, 0.0, 0.0]]])
        assert float(gauge(regions, corner)) == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize("shape", [(1, 6, 6), (24,)])
def test_square_finds_the_corner_of_an_affine_network(
    rng: np.random.Generator, shape: tuple[int, ...]
) -> None:
    network = affine(rng, shape)
    query = lift(robustness(network, rng.random(shape), 1, 0.2), 50.0)
    method = SquareSearch(steps=1500, restarts=2)
    (outcome,) = run(TorchNetwork(network), [query], method, Budget())
    least = least_in_box(query)
    clean, _ = rows_of(query)
    spread = 0.2 * float(np.abs(clean).sum(axis=1).max())
    assert least - 1e-3 <= outcome.margin <= least + 0.05 * spread


def test_square_uses_the_whole_ball(rng: np.random.Generator) -> None:
    network = affine(rng, (3, 7, 7))
    query = lift(robustness(network, np.full((3, 7, 7), 0.5), 1, 0.4, norm=2.0), 50.0)
    method = SquareSearch(steps=400, restarts=3)
    (outcome,) = run(TorchNetwork(network), [query], method, Budget())
    rows, constants = rows_of(query)
    center = float((rows @ np.full(147, 0.5) + constants).min())
    assert outcome.margin < center
    lengths = np.linalg.norm((outcome.points - 0.5).reshape(3, -1), axis=1)
    np.testing.assert_allclose(lengths, 0.4, rtol=1e-3)


def test_windows() -> None:
    grid = Grid.of_shape((3, 8, 6))
    assert Grid.of_shape((5,)) == Grid(1, 1, 5)
    assert grid.window(1.0) == (7, 6)
    assert grid.window(0.0, least=3) == (3, 3)
    assert grid.window(0.08, odd=True) == (3, 3)
    places = grid.places((2, 5), (3, 2), torch.Generator().manual_seed(0))
    assert places.shape == (2, 5, 18)
    assert int(places.max()) < 144 and int(places.min()) >= 0
    columns = places[..., :6] % 6
    assert int((columns.amax(dim=2) - columns.amin(dim=2)).max()) == 1
    assert [window_share(0.8, t, 10_000) for t in (0, 11, 9000)] == [0.8, 0.4, 0.8 / 512]
    humps = two_humps(5, 5)
    assert float(humps.norm()) == pytest.approx(1.0)
    assert float(humps[:2].min()) > 0 > float(humps[2:].max())


def test_shrinking_and_shifting(rng: np.random.Generator) -> None:
    images = torch.tensor(rng.random((3, 2, 8, 8)), dtype=torch.float32)
    same = shrink_and_shift(images, torch.ones(3), torch.rand(3, 2))
    torch.testing.assert_close(same, images, atol=1e-5, rtol=1e-5)
    half = shrink_and_shift(torch.ones(1, 1, 8, 8), torch.tensor([0.5]), torch.tensor([[1.0, 0.0]]))
    expected = torch.zeros(8, 8)
    expected[4:, :4] = 1
    torch.testing.assert_close(half[0, 0], expected, atol=1e-5, rtol=0)


def test_the_interaction_of_samples(rng: np.random.Generator) -> None:
    points = torch.tensor(rng.random((2, 3, 4)), dtype=torch.float32)
    gradient = torch.tensor(rng.normal(size=(2, 3, 4)), dtype=torch.float32)
    found = interaction(points, gradient)
    squares = ((points[:, :, None] - points[:, None]) ** 2).sum(dim=3)
    for b in range(2):
        width = 0.5 * squares[b].flatten().median() / math.log(3)
        for i in range(3):
            total = torch.zeros(4)
            for j in range(3):
                weight = torch.exp(-squares[b, i, j] / (2 * width))
                apart = (points[b, i] - points[b, j]) / width
                total += weight * (gradient[b, j] + apart)
            torch.testing.assert_close(found[b, i], total / 3, atol=1e-4, rtol=1e-4)
    alone = interaction(points[:, :1], gradient[:, :1])
    torch.testing.assert_close(alone, gradient[:, :1])


def test_ensembles_keep_the_published_order() -> None:
    standard, plus = autoattack(AttackOptions()), autoattack_plus(AttackOptions())
    sizes = {m.name: (m.steps, m.restarts) for m in standard.methods}
    assert sizes == {
        "apgd-ce": (100, 1),
        "apgd-t": (100, 1),
        "fab-t": (200, 1),
        "square": (5000, 1),
    }
    names = [(m.name, m.restarts) for m in plus.methods]
    assert names == [
        ("apgd-ce", 5),
        ("apgd-dlr", 5),
        ("fab", 5),
        ("square", 1),
        ("apgd-t", 1),
        ("fab-t", 5),
    ]


def test_later_methods_see_only_what_stands(rng: np.random.Generator) -> None:
    """What the first method breaks costs its evaluations and no more."""
    network = random_conv(rng)
    images = [rng.random(network.input_shape) for _ in range(4)]
    queries = [robustness(network, x, k % 3, 0.05) for k, x in enumerate(images)]
    first, second = apgd_targeted(AttackOptions(steps=3)), SquareSearch(steps=7, restarts=2)
    lens = TorchNetwork(network)
    alone = run(lens, queries, first, Budget())
    both = run_attack(lens, queries, Ensemble("two", (first, second)), Budget())
    broken = [o.margin < 0 for o in alone]
    assert any(broken)
    assert not all(broken)
    for one, two, fell in zip(alone, both, broken, strict=True):
        assert two.margin <= one.margin
        assert (two.evaluations == one.evaluations) == fell
