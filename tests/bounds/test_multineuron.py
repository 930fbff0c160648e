"""Hulls of groups of neurons hold, and are as tight as they claim."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from closegap.bounds.backward import BackwardPass, lower_bound
from closegap.bounds.constraints import CutPart, LinearCuts
from closegap.bounds.intermediate import bound_activations
from closegap.bounds.multineuron.build import make_hulls, separating_cuts
from closegap.bounds.multineuron.cover import correlated_pairs, sparse_cover
from closegap.bounds.multineuron.cuts import HullCuts
from closegap.bounds.multineuron.hulls import VertexHulls
from closegap.bounds.multineuron.resting import resting_point
from closegap.bounds.multineuron.separation import normals
from closegap.bounds.multineuron.vectors import HullVectors
from closegap.bounds.multineuron.vertices import directions, enumerate_vertices
from closegap.bounds.optimise import Ascent, AscentOptions
from closegap.bounds.records import Parameters
from closegap.bounds.regions import InputSet
from closegap.core.budget import Budget
from closegap.graph import ops
from closegap.graph.network import Network
from closegap.runtime.torch_network import TorchNetwork
from tiny_networks import dense

ACTIVATIONS = {"relu": ops.Relu(), "leaky": ops.LeakyRelu(0.1)}


class Small:
    """A dense network on a box with its bounds, and hulls of its second hidden layer."""

    def __init__(self, rng: np.random.Generator, activation: ops.Op, size: int) -> None:
        self.net: Network = dense(rng, [3, 6, 5, 2], activation)
        self.exact = TorchNetwork(self.net, dtype=torch.float64)
        self.region = InputSet(-torch.ones(1, 3).double(), torch.ones(1, 3).double())
        known = bound_activations(self.exact, self.region, Budget())
        self.plain = BackwardPass(self.exact, known.activations, known.values)
        self.hulls = [self._hulls(layer, size) for layer in self.net.activations]
        self.cuts = [_random_cuts(hulls, rng) for hulls in self.hulls]
        self.bounder = BackwardPass(
            self.exact, known.activations, known.values, constraints=tuple(self.cuts)
        )
        self.rows = torch.as_tensor(rng.normal(size=(1, 3, 2)))

    def _hulls(self, activation: int, size: int) -> VertexHulls:
        count = self.net.nodes[activation].size
        groups = sparse_cover(np.ones((count, count)), size, 10)
        return make_hulls(self.plain, self.region, activation, groups, Budget())

    def bound(self, weights: dict[int, torch.Tensor]) -> torch.Tensor:
        parameters = Parameters(weights=weights)
        return lower_bound(self.bounder, self.region, self.net.output, self.rows, parameters)

    def values(self, points: torch.Tensor) -> list[torch.Tensor]:
        return self.exact.values(points)


def free(hulls: VertexHulls) -> HullVectors:
    """Vectors over all groups."""
    return HullVectors.of(hulls, torch.ones(len(hulls.members)).double())


def _random_cuts(hulls: VertexHulls, rng: np.random.Generator) -> HullCuts:
    """Three rows a group."""
    owner = torch.arange(len(hulls.members)).repeat(3)
    width = hulls.lifted.shape[2]
    return HullCuts.of(hulls, owner, torch.as_tensor(rng.normal(size=(len(owner), width))))


@pytest.mark.parametrize("kind", ACTIVATIONS)
@pytest.mark.parametrize("size", [2, 3, 4])
def test_every_input_obeys_random_multipliers(
    kind: str, size: int, rng: np.random.Generator
) -> None:
    small = Small(rng, ACTIVATIONS[kind], size)
    points = torch.as_tensor(rng.uniform(-1, 1, size=(100_000, 3)))
    values = small.values(points)
    for cuts in (*small.cuts, *(free(hulls) for hulls in small.hulls)):
        price = torch.as_tensor(rng.normal(size=(1, 20, cuts.size)))
        terms = cuts.terms(price, small.bounder.values)
        total = sum(
            values[node].flatten(1) @ part[0].flatten(1).T
            for node, part in terms.coefficients.items()
        )
        assert (total >= terms.constant - terms.rounding).all()


@pytest.mark.parametrize("kind", ACTIVATIONS)
@pytest.mark.parametrize("size", [2, 3])
def test_bounds_with_any_multipliers_hold(kind: str, size: int, rng: np.random.Generator) -> None:
    small = Small(rng, ACTIVATIONS[kind], size)
    points = torch.as_tensor(rng.uniform(-1, 1, size=(20_000, 3)))
    least = (small.values(points)[-1] @ small.rows[0].T).min(dim=0).values
    for scale in (0.0, 0.01, 0.1, 1.0):
        weights = {
            place: torch.as_tensor(scale * rng.normal(size=(1, 3, held.size)))
            for place, held in enumerate(small.cuts)
        }
        assert (small.bound(weights)[0] <= least).all()


def test_no_multipliers_change_nothing(rng: np.random.Generator) -> None:
    small = Small(rng, ops.Relu(), 2)
    none = {place: torch.zeros(1, 3, held.size).double() for place, held in enumerate(small.cuts)}
    torch.testing.assert_close(small.bound(none), small.bound({}), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("size", [2, 3])
def test_climbing_approaches_the_program_with_hulls(size: int, rng: np.random.Generator) -> None:
    small = Small(rng, ops.Relu(), size)
    options = AscentOptions(iterations=40, slope_rate=0.05, patience=200, goal=np.inf)
    ascent = Ascent(small.region, options)
    first = ascent.run(small.plain, small.net.output, small.rows, Budget())
    alone, found, known = first.lower[0], first.lower[0], first.parameters
    cuts: list[HullCuts] = []
    for _ in range(3):
        bounder = BackwardPass(small.exact, small.plain.bounds, constraints=tuple(cuts))
        rest = resting_point(bounder, small.region, small.rows, known, small.net.activations)
        for hulls in small.hulls:
            z, h = rest.values[hulls.feed], rest.values[hulls.activation]
            fresh = separating_cuts(hulls, z, h, rest.incoming[hulls.activation].abs(), 10)
            cuts += [] if fresh is None else [fresh]
        bounder = BackwardPass(small.exact, small.plain.bounds, constraints=tuple(cuts))
        climbed = ascent.run(bounder, small.net.output, small.rows, Budget(), initial=known)
        assert (climbed.lower[0] >= found - 1e-9).all()
        found, known = climbed.lower[0], climbed.parameters
    sets = [HullVectors.of_cuts(c, known.weights[place]) for place, c in enumerate(cuts)]
    bounder = BackwardPass(small.exact, small.plain.bounds, constraints=tuple(s for s, _ in sets))
    known = replace(known, weights={place: start for place, (_, start) in enumerate(sets)})
    freed = ascent.run(bounder, small.net.output, small.rows, Budget(), initial=known).lower[0]
    best = torch.tensor([_program(small, row) for row in small.rows[0].numpy()])
    assert (found <= best + 1e-6).all()
    assert (freed >= found - 1e-6).all() and (freed <= best + 1e-6).all()
    assert (freed - alone).sum() > 0.5 * (best - alone).sum() and freed.sum() > found.sum()
    assert (found >= alone - 1e-6).all()
    assert (best - alone).max() > 0.01
    assert (found - alone).sum() > 0.4 * (best - alone).sum()


def _program(small: Small, row: np.ndarray) -> float:
    """Least value of a row over triangles and hulls."""
    program = _Program(small)
    for feed, activation in program.layers:
        program.layer(feed, activation)
    for hulls in small.hulls:
        for group, members in enumerate(hulls.members.tolist()):
            program.hull(hulls, group, members)
    return program.least(row)


class _Program:
    """A linear program: inputs, then z and h of every layer, then weights of vertices."""

    def __init__(self, small: Small) -> None:
        self.small = small
        nodes = small.net.nodes
        self.layers = [(nodes[a].inputs[0], a) for a in small.net.activations]
        self.place, self.fixed = {0: 0}, 3
        for node in (n for pair in self.layers for n in pair):
            self.place[node] = self.fixed
            self.fixed += nodes[node].size
        self.width = self.fixed + sum(h.lifted[..., 0].numel() for h in small.hulls)
        self.next = self.fixed
        self.equal: list[np.ndarray] = []
        self.right: list[float] = []
        self.upper: list[np.ndarray] = []
        self.limit: list[float] = []

    def layer(self, feed: int, activation: int) -> None:
        node = self.small.net.nodes[feed]
        op = node.op
        assert isinstance(op, ops.Linear)
        before = self.place[node.inputs[0]]
        bounds = self.small.bounder.bounds[feed]
        for unit in range(node.size):
            z, h = self.place[feed] + unit, self.place[activation] + unit
            line = np.zeros(self.width)
            line[before : before + op.weight.shape[1]] = op.weight[unit]
            line[z] = -1
            self.equal.append(line)
            self.right.append(-op.bias[unit])
            ends = float(bounds.lower[0, unit]), float(bounds.upper[0, unit])
            for a, b, c in _triangle(*ends):
                line = np.zeros(self.width)
                line[z], line[h] = a, b
                self.upper.append(line)
                self.limit.append(c)

    def hull(self, hulls: VertexHulls, group: int, members: list[int]) -> None:
        vertices = hulls.lifted[group].numpy()
        columns = slice(self.next, self.next + len(vertices))
        self.next += len(vertices)
        goals = [self.place[n] + u for n in (hulls.feed, hulls.activation) for u in members]
        lines = np.zeros((len(goals) + 1, self.width))
        lines[:-1, columns], lines[-1, columns] = vertices.T, 1
        lines[np.arange(len(goals)), goals] = -1
        self.equal.extend(lines)
        self.right.extend([0.0] * len(goals) + [1.0])

    def least(self, row: np.ndarray) -> float:
        net = self.small.net
        last = net.nodes[net.output].op
        assert isinstance(last, ops.Linear)
        before = self.place[net.nodes[net.output].inputs[0]]
        cost = np.zeros(self.width)
        cost[before : before + last.weight.shape[1]] = row @ last.weight
        box = [(-1, 1)] * 3 + [(None, None)] * (self.fixed - 3)
        box += [(0, None)] * (self.width - self.fixed)
        found = linprog(
            cost, np.array(self.upper), self.limit, np.array(self.equal), self.right, box
        )
        assert found.success
        return float(found.fun + row @ last.bias)


def _triangle(lower: float, upper: float) -> list[tuple[float, float, float]]:
    """Rows `a z + b h <= c` of a ReLU."""
    if lower >= 0:
        return [(1, -1, 0), (-1, 1, 0)]
    if upper <= 0:
        return [(0, 1, 0), (0, -1, 0)]
    chord = upper / (upper - lower)
    return [(1, -1, 0), (0, -1, 0), (-chord, 1, -chord * lower)]


def test_splits_leave_the_vertices_on_their_side(rng: np.random.Generator) -> None:
    small = Small(rng, ops.Relu(), 2)
    hulls = small.hulls[1]
    signs = torch.zeros(2, 5, dtype=torch.int8)
    signs[1, int(hulls.members[0, 0])] = 1
    out = hulls.excluded({hulls.feed: signs})
    assert out is not None
    assert (out.domain == 1).all() and out.group[0] == 0
    assert torch.equal(out.out[0], hulls.lifted[0, :, 0] < -hulls.tolerance[0])
    points = small.values(torch.as_tensor(rng.uniform(-1, 1, size=(20_000, 3))))
    inside = points[hulls.feed][:, hulls.members[0, 0]] >= 0
    for cuts in (small.cuts[1], free(hulls)):
        held, none = cuts.restricted({hulls.feed: signs})
        assert none is not None and not bool(none.any())
        price = torch.as_tensor(rng.uniform(size=(1, 4, held.size))).repeat(2, 1, 1)
        both = held.terms(price, small.bounder.values)
        assert (both.constant[1] >= both.constant[0] - 1e-12).all()
        assert (both.constant[1] > both.constant[0]).any()
        total = sum(
            points[node].flatten(1) @ part[0].flatten(1).T
            for node, part in both.coefficients.items()
        )
        assert isinstance(total, torch.Tensor)
        assert (total[inside] >= both.constant[1] - both.rounding[1]).all()


def test_vectors_say_at_least_what_their_rows_do_and_are_kept(rng: np.random.Generator) -> None:
    small = Small(rng, ops.Relu(), 3)
    cuts = small.cuts[1]
    price = torch.as_tensor(rng.uniform(size=(2, 3, cuts.size)))
    vectors, start = HullVectors.of_cuts(cuts, price)
    rows, whole = cuts.terms(price, None), vectors.terms(start, None)
    assert (whole.constant >= rows.constant - 1e-9).all()
    for node, part in rows.coefficients.items():
        torch.testing.assert_close(whole.coefficients[node], part)
    again = HullVectors.of_arrays(vectors.arrays(), small.net.nodes).terms(start, None)
    assert torch.equal(again.constant, whole.constant)
    with pytest.raises(ValueError, match="damaged"):
        HullVectors.of_arrays({**vectors.arrays(), "units": np.ones(1)}, small.net.nodes)


def test_rows_are_the_same_in_parts_together_and_kept(rng: np.random.Generator) -> None:
    small = Small(rng, ops.Relu(), 3)
    rows, hulls = small.cuts[1], small.hulls[1]
    wider = replace(hulls, lifted=torch.cat([hulls.lifted, hulls.lifted[:, :1]], dim=1))
    few = HullCuts.of(wider, rows.owner[:4], rows.normals[:4])
    joined = HullCuts.joined([rows, few])
    kept, back = HullCuts.of_arrays(joined.arrays(), small.net.nodes), range(joined.size)[::-1]
    signs = torch.zeros(2, 5, dtype=torch.int8)
    signs[1, int(hulls.members[0, 0])] = -1

    def every(cuts: HullCuts, weights: torch.Tensor) -> torch.Tensor:
        terms = cuts.restricted({hulls.feed: signs})[0].terms(weights, None)
        parts = [part.flatten(2) for _, part in sorted(terms.coefficients.items())]
        return torch.cat([terms.constant[..., None], *parts], dim=2)

    price = torch.as_tensor(rng.uniform(size=(2, 3, joined.size)))
    whole, first = every(joined, price), every(rows, price[..., : rows.size])
    assert torch.equal(every(kept, price), whole)
    for other in (
        every(joined.part(torch.tensor(back)), price[..., back]),
        first + every(few, price[..., rows.size :]),
    ):
        torch.testing.assert_close(other, whole)


def test_splits_that_exclude_each_other_leave_nothing() -> None:
    limits = np.array([[-0.5 if tuple(c) == (1.0, 1.0) else 1.0 for c in directions(2)]])
    vertices, tolerance = enumerate_vertices(limits, 2)
    lifted = torch.as_tensor(np.concatenate([vertices, np.maximum(vertices, 0)], axis=2))
    hulls = VertexHulls(1, 2, (2,), torch.tensor([[0, 1]]), lifted, torch.as_tensor(tolerance))
    signs = torch.tensor([[1, 1], [1, -1], [0, 1]], dtype=torch.int8)
    cuts = HullCuts.of(hulls, torch.zeros(1).long(), torch.ones(1, 4).double())
    _, none = cuts.restricted({1: signs})
    assert none is not None
    assert none.tolist() == [True, False, False]


def test_linear_cuts_act_like_the_rows_they_are(rng: np.random.Generator) -> None:
    small = Small(rng, ops.Relu(), 2)
    feed, activation = small.hulls[1].feed, small.hulls[1].activation
    points = torch.as_tensor(rng.uniform(-1, 1, size=(20_000, 3)))
    values = small.values(points)
    inner, outer = rng.normal(size=(2, 4, 5))
    every = torch.arange(5)
    parts = (
        CutPart.of(feed, (5,), every, torch.as_tensor(inner)),
        CutPart.of(activation, (5,), every, torch.as_tensor(outer)),
    )
    reached = sum(values[p.node] @ p.weights.T for p in parts)
    assert isinstance(reached, torch.Tensor)
    cuts = LinearCuts(parts, reached.max(dim=0).values + 0.01)
    bounder = BackwardPass(
        small.exact, small.bounder.bounds, small.bounder.values, constraints=(cuts,)
    )
    least = (values[-1] @ small.rows[0].T).min(dim=0).values
    weights = {0: torch.as_tensor(rng.normal(size=(1, 3, 4)))}
    found = lower_bound(
        bounder, small.region, small.net.output, small.rows, Parameters(weights=weights)
    )
    assert (found[0] <= least + 0.05 * weights[0].abs().sum()).all()


def test_sparse_cover_repeats_no_pair(rng: np.random.Generator) -> None:
    rows = rng.normal(size=(12, 4))
    pairs = correlated_pairs(rows, rng.uniform(size=12))
    for size in (2, 3, 4):
        groups = sparse_cover(pairs, size, 100)
        seen = [frozenset((g[a], g[b])) for g in groups for a in range(size) for b in range(a)]
        assert len(seen) == len(set(seen))
        assert len(groups) >= {2: 66, 3: 12, 4: 5}[size]


@pytest.mark.parametrize("inside", [True, False])
def test_normals_vanish_inside_and_point_at_the_hull(
    inside: bool, rng: np.random.Generator
) -> None:
    vertices = torch.as_tensor(rng.normal(size=(5, 30, 4)))
    points = vertices.mean(dim=1) + (0.0 if inside else 10.0)
    found = normals(points, vertices)
    if inside:
        assert found.norm(dim=1).max() < 0.05
    else:
        ahead = torch.einsum("gvw,gw->gv", vertices - points[:, None], found)
        assert (ahead > 0).all()


@pytest.mark.parametrize("size", [2, 3, 4])
def test_splits_leave_a_vertex_where_limits_are_denormal(size: int) -> None:
    limits = np.full((1, len(directions(size))), np.finfo(np.float64).smallest_subnormal)
    vertices, tolerance = enumerate_vertices(limits, size)
    hulls = VertexHulls(
        feed=1,
        activation=2,
        shape=(size,),
        members=torch.arange(size)[None],
        lifted=torch.as_tensor(np.concatenate([vertices, np.maximum(vertices, 0)], axis=2)),
        tolerance=torch.as_tensor(tolerance),
    )
    cuts = HullCuts.of(hulls, torch.zeros(1).long(), torch.ones(1, 2 * size).double())
    for sign in (1, -1):  # zero lies in the octahedron and obeys either split
        _, empty = cuts.restricted({1: torch.full((1, size), sign, dtype=torch.int8)})
        assert empty is None or not bool(empty.any())
