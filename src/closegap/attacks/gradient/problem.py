"""What a batched attack works on: queries and lanes as a struct of arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from closegap.attacks.projection import RegionBatch, batch_regions, region_norm
from closegap.runtime.torch_network import TorchNetwork
from closegap.specs.query import Query

__all__ = [
    "Problem",
    "build_problem",
    "clause_margins",
    "group_queries",
    "lane_margins",
    "run_network",
    "take",
    "with_targets",
]

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Problem:
    """B queries of one network, attacked by L lanes each (a lane is one clause and one restart).

    Attributes:
        regions: where inputs may lie.
        rows: the property's rows.
        offsets: the property's offsets.
        clause: the clause of each row, the same for all B queries.
        labels: the true class, or -1 where the property is not robustness of a class.
        aims: the class that shall win, or -1 where the property asks for none.
        clean: the network's outputs at the regions' centers.
        target: the clause each lane tries to break; -1 for whichever is nearest.
        query: position of each query in the caller's list.
        strict: a counterexample needs a margin below 0.
        shape: of one input, such as `(channels, height, width)`.
    """

    regions: RegionBatch
    rows: Float[Tensor, "B Q C"]
    offsets: Float[Tensor, "B Q"]
    clause: tuple[int, ...]
    labels: Int[Tensor, "B"]
    aims: Int[Tensor, "B"]
    clean: Float[Tensor, "B C"]
    target: Int[Tensor, "B L"]
    query: Int[Tensor, "B"]
    strict: bool
    shape: tuple[int, ...]

    @property
    def clauses(self) -> int:
        """Number of clauses (K)."""
        return max(self.clause, default=-1) + 1

    def broken(self, margins: Float[Tensor, "..."]) -> Tensor:
        """Which margins break the property."""
        return margins < 0 if self.strict else margins <= 0


def group_queries(queries: Sequence[Query]) -> list[list[int]]:
    """Positions of queries that can share a batch: one norm, one shape of property."""
    groups: dict[tuple[float, tuple[int, ...], bool], list[int]] = {}
    for place, query in enumerate(queries):
        clause = tuple(int(k) for k in query.prop.clause)
        key = (region_norm(query.region), clause, query.prop.strict)
        groups.setdefault(key, []).append(place)
    return list(groups.values())


def build_problem(
    network: TorchNetwork, queries: Sequence[Query], places: Sequence[int]
) -> Problem:
    """The problem of the queries at these places, with one untargeted lane each."""
    chosen = [queries[place] for place in places]
    properties = [query.prop for query in chosen]
    regions = batch_regions([query.region for query in chosen], device=network.device)
    with torch.no_grad():
        clean = run_network(network, regions.center[:, None])[:, 0]
    return Problem(
        regions=regions,
        rows=network.tensor(np.stack([p.rows for p in properties])),
        offsets=network.tensor(np.stack([p.offsets for p in properties])),
        clause=tuple(int(k) for k in properties[0].clause),
        labels=_classes([p.label for p in properties], network.device),
        aims=_classes([p.target for p in properties], network.device),
        clean=clean,
        target=torch.full((len(chosen), 1), -1, device=network.device),
        query=torch.tensor(list(places), device=network.device),
        strict=properties[0].strict,
        shape=network.network.input_shape,
    )


def _classes(known: Sequence[int | None], device: torch.device) -> Int[Tensor, "B"]:
    return torch.tensor([-1 if k is None else k for k in known], device=device)


def with_targets(
    problem: Problem, hardness: Float[Tensor, "B K"], targets: int, lanes: range
) -> Problem:
    """The problem with these lanes: lane j attacks the clause of rank `j mod targets`.

    Args:
        hardness: the least margin seen of every clause; rank 0 is the least.
        targets: how many clauses to attack; 0 for one lane that attacks whichever is nearest.
        lanes: numbers of the lanes, as counted over all waves of one attack.
    """
    count = min(targets, problem.clauses)
    if not count:
        target = torch.full((len(problem.query), len(lanes)), -1, device=problem.query.device)
        return replace(problem, target=target)
    ranks = torch.tensor([lane % count for lane in lanes], device=problem.query.device)
    return replace(problem, target=hardness.argsort(dim=1, stable=True)[:, ranks])


def run_network(network: TorchNetwork, points: Float[Tensor, "B L D"]) -> Float[Tensor, "B L C"]:
    """The outputs at every lane's point; differentiable."""
    flat = points.reshape(-1, *network.network.input_shape)
    return network(flat).reshape(*points.shape[:2], -1)


def clause_margins(
    problem: Problem, outputs: Float[Tensor, "B L C"], *, offsets: bool = True
) -> Float[Tensor, "B L K"]:
    """The margin of every clause (the greatest of its rows') at every lane's outputs."""
    values = outputs @ problem.rows.transpose(1, 2)
    if offsets:
        values = values + problem.offsets[:, None]
    if problem.clause == tuple(range(problem.clauses)):
        return values
    place = torch.tensor(problem.clause, device=values.device).expand_as(values)
    spread = values.new_full((*values.shape[:2], problem.clauses), -torch.inf)
    return spread.scatter_reduce(2, place, values, "amax")


def lane_margins(problem: Problem, margins: Float[Tensor, "B L K"]) -> Float[Tensor, "B L"]:
    """What each lane lowers: the margin of its own clause, or the least of all."""
    least = margins.amin(dim=2)
    own = margins.gather(2, problem.target.clamp(min=0)[..., None])[..., 0]
    return torch.where(problem.target >= 0, own, least)


def take(record: T, keep: Int[Tensor, "kept"]) -> T:
    """The record of some of its queries: every tensor in it is indexed along its first axis."""
    assert is_dataclass(record) and not isinstance(record, type)
    changes = {f.name: _take_value(getattr(record, f.name), keep) for f in fields(record)}
    return replace(record, **changes)


def _take_value(value: Any, keep: Tensor) -> Any:
    if isinstance(value, Tensor):
        return value[keep]
    if isinstance(value, tuple):
        return tuple(_take_value(item, keep) for item in value)
    return take(value, keep) if is_dataclass(value) else value
