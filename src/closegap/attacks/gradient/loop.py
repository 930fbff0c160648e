"""The one loop of all batched attacks: evaluate, remember the best, drop the solved, step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from closegap.attacks.gradient.method import Evaluation, Method, Objective, Viewed
from closegap.attacks.gradient.problem import (
    Problem,
    build_problem,
    clause_margins,
    group_queries,
    run_network,
    take,
    with_targets,
)
from closegap.attacks.outcome import AttackInterrupted, AttackOutcome
from closegap.attacks.projection import inside, to_float32_inside
from closegap.core.budget import Budget
from closegap.core.numerics import REPLAY_SLACK
from closegap.runtime.torch_network import TorchNetwork
from closegap.specs.query import Query
from closegap.specs.region import Box, contains

__all__ = ["run"]

#: Lanes of one step on a CPU are chosen to work in this many bytes: more gains no speed there, and
#: the deadline is looked at between steps only.
CPU_CHUNK_BYTES = 64 * 1024**2

#: Steps taken after a property first breaks by less than the replay may differ by.
PATIENCE = 5


@dataclass(frozen=True, eq=False)
class _Record:
    """The best of every lane and of every clause, and for how many steps a query is broken."""

    points: Float[Tensor, "B L D"]
    margins: Float[Tensor, "B L"]
    clauses: Float[Tensor, "B K"]
    broken_for: Int[Tensor, "B"]


@dataclass
class _Harvest:
    """What was found for one query, wave after wave."""

    points: list[NDArray[np.float32]] = field(default_factory=list)
    margins: list[NDArray[np.float64]] = field(default_factory=list)
    evaluations: int = 0
    finished: bool = True


@dataclass(frozen=True, eq=False)
class _Search:
    """What one call of `run` holds on to."""

    network: TorchNetwork
    queries: Sequence[Query]
    method: Method[Any]
    budget: Budget
    random: torch.Generator
    harvests: tuple[_Harvest, ...]


def run(
    network: TorchNetwork, queries: Sequence[Query], method: Method[Any], budget: Budget
) -> tuple[AttackOutcome, ...]:
    """Attack queries of one network.

    Queries whose property broke (with slack against rounding) stop early. The deadline is looked
    at before every step; what was found by then is returned. With an expired budget nothing is
    evaluated and outcomes are empty. On one thread the answer depends on the seed only.

    Args:
        network: that the queries are about, on any device; float32 for margins as deployed.
        queries: any mix of norms and properties.
        method: the attack.
        budget: deadline, seed, and the bytes that lanes may take at a time.

    Returns:
        one outcome a query, in order.

    Raises:
        AttackInterrupted: Ctrl-C, with what was found until then of every query.
    """
    search = _Search(
        network=network,
        queries=queries,
        method=method,
        budget=budget,
        random=torch.Generator(device=network.device).manual_seed(budget.seed),
        harvests=tuple(_Harvest() for _ in queries),
    )
    try:
        _attack_groups(search)
    except KeyboardInterrupt as stop:
        _cut_short(search, [i for i, h in enumerate(search.harvests) if not h.evaluations])
        raise AttackInterrupted(_outcomes(search)) from stop
    return _outcomes(search)


def _attack_groups(search: _Search) -> None:
    """Groups of alike queries one after the other, so many of one side by side as fit."""
    method, room = search.method, _lanes_at_once(search.network, search.budget)
    for group in group_queries(search.queries):
        clauses = search.queries[group[0]].prop.clauses
        lanes = max(1, min(method.targets, clauses)) * method.restarts
        size = max(1, room // lanes)
        for begin in range(0, len(group) if clauses else 0, size):
            _attack_chunk(search, group[begin : begin + size], lanes, room)


def _lanes_at_once(network: TorchNetwork, budget: Budget) -> int:
    """How many lanes fit: values and gradients of all nodes, and the attack's own points."""
    values = sum(node.size for node in network.network.nodes)
    entry = torch.finfo(network.dtype).bits // 8
    a_lane = 3 * entry * values + 10 * 4 * network.network.input_size
    limit = min(budget.memory, CPU_CHUNK_BYTES) if network.device.type == "cpu" else budget.memory
    return max(1, limit // a_lane)


def _attack_chunk(search: _Search, places: Sequence[int], lanes: int, room: int) -> None:
    """All waves of lanes over queries that fit side by side."""
    if search.budget.expired:
        _cut_short(search, places)
        return
    problem = build_problem(search.network, search.queries, places)
    hardness = clause_margins(problem, problem.clean[:, None])[:, 0]
    for begin in range(0, lanes, room):
        if search.budget.expired:  # starts of hundreds of lanes take a while too
            _cut_short(search, problem.query.tolist())
            return
        wave = range(begin, min(begin + room, lanes))
        problem = with_targets(problem, hardness, search.method.targets, wave)
        open_, best = _attack_wave(search, problem)
        if not len(open_):
            return
        problem = take(problem, open_)
        hardness = torch.minimum(hardness[open_], best)


def _attack_wave(search: _Search, problem: Problem) -> tuple[Tensor, Tensor]:
    """One wave of lanes.

    Returns:
        which queries of the problem stayed open, and the least margins of their clauses.
    """
    method, random = search.method, search.random
    present = torch.arange(len(problem.query), device=problem.query.device)
    state = method.init(problem, random)
    record = _blank(problem)
    try:
        for taken in range(method.steps + 1):
            if search.budget.expired:
                _cut_short(search, problem.query.tolist())
                break
            last = taken == method.steps
            seen, clauses = _evaluate(
                search.network,
                problem,
                state.points,
                None if last else method.objective(problem, state),
            )
            record = _remember(problem, record, state.points, seen, clauses)
            _count(search, problem)
            closed = _solved(problem, record)
            if last or bool(closed.all()):
                break
            if 2 * int(closed.sum()) >= len(closed):
                _gather(search, problem, record, closed)
                keep = torch.nonzero(~closed)[:, 0]
                problem, record, present = take(problem, keep), take(record, keep), present[keep]
                state, seen = take(state, keep), take(seen, keep)
            state = method.step(problem, state, seen, random)
    except KeyboardInterrupt:  # what was found counts, also of the wave that was cut off
        _cut_short(search, problem.query.tolist())
        _gather(search, problem, record, torch.ones(len(problem.query), dtype=torch.bool))
        raise
    _gather(search, problem, record, torch.ones_like(present, dtype=torch.bool))
    open_ = torch.nonzero(~_solved(problem, record))[:, 0]
    return present[open_], record.clauses[open_]


def _evaluate(
    network: TorchNetwork,
    problem: Problem,
    points: Float[Tensor, "B L D"],
    objective: Objective | Viewed | None,
) -> tuple[Evaluation, Float[Tensor, "B K"]]:
    """The network at the points, and each query's least clause margins."""
    if objective is None:
        with torch.no_grad():
            outputs = run_network(network, points)
        loss, gradient = None, torch.zeros_like(points)
    else:
        leaf = points.detach().requires_grad_()
        outputs, loss = _live(network, leaf, objective)
        gradient = torch.zeros_like(points)
        if loss.requires_grad:
            (found,) = torch.autograd.grad(loss.sum(), leaf, allow_unused=True)
            gradient = gradient if found is None else torch.nan_to_num(found)
        outputs, loss = outputs.detach(), loss.detach()
    clauses = clause_margins(problem, outputs)
    margins = clauses.amin(dim=2)
    seen = Evaluation(outputs, margins, margins if loss is None else loss, gradient)
    return seen, clauses.nan_to_num(nan=torch.inf).amin(dim=1)


def _live(
    network: TorchNetwork, leaf: Float[Tensor, "B L D"], objective: Objective | Viewed
) -> tuple[Float[Tensor, "B L C"], Float[Tensor, "B L"]]:
    """The outputs at the points, and the losses with their graph."""
    if not isinstance(objective, Viewed):
        outputs = run_network(network, leaf)
        return outputs, objective(outputs)
    with torch.no_grad():
        outputs = run_network(network, leaf)
    return outputs, objective.loss(run_network(network, objective.view(leaf)))


def _blank(problem: Problem) -> _Record:
    center = problem.regions.center
    count, lanes = problem.target.shape
    return _Record(
        points=center[:, None].expand(-1, lanes, -1).clone(),
        margins=torch.full((count, lanes), torch.inf, dtype=problem.rows.dtype).to(center.device),
        clauses=torch.full((count, problem.clauses), torch.inf, dtype=problem.rows.dtype).to(
            center.device
        ),
        broken_for=torch.zeros(count, dtype=torch.int64, device=center.device),
    )


def _remember(
    problem: Problem,
    record: _Record,
    points: Float[Tensor, "B L D"],
    seen: Evaluation,
    clauses: Float[Tensor, "B K"],
) -> _Record:
    """The record with the members of the regions in it; a margin that is no number never enters."""
    better = (seen.margins < record.margins) & inside(problem.regions, points)
    margins = torch.where(better, seen.margins, record.margins)
    broken = problem.broken(margins).any(dim=1)
    return _Record(
        points=torch.where(better[..., None], points, record.points),
        margins=margins,
        clauses=torch.minimum(clauses, record.clauses),
        broken_for=torch.where(broken, record.broken_for + 1, 0),
    )


def _solved(problem: Problem, record: _Record) -> Bool[Tensor, "B"]:
    """Broken by more than two evaluations may differ, or broken for long enough."""
    slack = REPLAY_SLACK * (1 + problem.clean.abs().amax(dim=1))
    return (record.margins.amin(dim=1) < -slack) | (record.broken_for > PATIENCE)


def _count(search: _Search, problem: Problem) -> None:
    for place in problem.query.tolist():
        search.harvests[place].evaluations += problem.target.shape[1]


def _cut_short(search: _Search, places: Sequence[int]) -> None:
    for place in places:
        search.harvests[place].finished = False


def _gather(search: _Search, problem: Problem, record: _Record, which: Bool[Tensor, "B"]) -> None:
    """Move these queries' lanes into their harvests."""
    points, margins = record.points.cpu().numpy(), record.margins.double().cpu().numpy()
    for row in torch.nonzero(which)[:, 0].tolist():
        harvest = search.harvests[int(problem.query[row])]
        real = np.isfinite(margins[row])
        harvest.points.append(points[row][real])
        harvest.margins.append(margins[row][real])


def _outcomes(search: _Search) -> tuple[AttackOutcome, ...]:
    return tuple(_outcome(search, place) for place in range(len(search.queries)))


def _outcome(search: _Search, place: int) -> AttackOutcome:
    """One query's harvest, members of its region only, sorted."""
    query, harvest = search.queries[place], search.harvests[place]
    shape = query.network.input_shape
    points = np.concatenate([np.zeros((0, query.network.input_size), np.float32), *harvest.points])
    margins = np.concatenate([np.zeros(0), *harvest.margins])
    points, margins = _admit(search.network, query, points.reshape(-1, *shape), margins)
    order = np.argsort(margins, kind="stable")
    return AttackOutcome(
        method=search.method.name,
        points=points[order],
        margins=margins[order],
        evaluations=harvest.evaluations,
        finished=harvest.finished,
    )


def _admit(
    network: TorchNetwork, query: Query, points: NDArray[np.float32], margins: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Members as they are; the others (float32 rounding at a ball's rim) moved in or left out."""
    if isinstance(query.region, Box):
        return points, margins
    outside = [i for i, point in enumerate(points) if not contains(query.region, point)]
    moved = {i: to_float32_inside(query.region, points[i]) for i in outside}
    points, margins = points.copy(), margins.copy()
    for i, point in moved.items():
        if point is None:
            margins[i] = np.inf
            continue
        points[i] = point
        with torch.no_grad():
            outputs = network(network.tensor(point[None])).cpu().numpy()
        margins[i] = query.prop.margins(outputs)[0]
    kept = np.isfinite(margins)
    return points[kept], margins[kept]
