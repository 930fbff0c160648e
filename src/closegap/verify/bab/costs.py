"""Milliseconds it takes to bound the units of each layer, measured once on the problem."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from closegap.bounds.backward import BackwardPass
from closegap.branching.costs import split_costs
from closegap.verify.bab.problem import Layer, SplitProblem

__all__ = ["measured_costs"]

#: Rows timed at once; the time of a whole layer is in proportion.
_ROWS = 32
_REPEATS = 3


def measured_costs(problem: SplitProblem) -> Float[Tensor, " L"]:
    """What bounding everything behind a split at each layer takes: two rows for each unit."""
    near = {i: b.to(torch.float32) for i, b in problem.bounds.items()}
    search = BackwardPass(problem.search, near)
    output = problem.search.network.output
    final = _milliseconds(lambda: search.run(output, problem.rows[:1].float()))
    bounding = [_layer_cost(search, layer) for layer in problem.layers]
    return split_costs(torch.tensor(bounding, dtype=torch.float64), final)


def _layer_cost(search: BackwardPass, layer: Layer) -> float:
    shape = search.network.network.nodes[layer.feed].shape
    timed = layer.indices[:_ROWS]
    rows = torch.zeros(1, len(timed), int(torch.tensor(shape).prod()))
    rows[0, torch.arange(len(timed)), timed] = 1.0
    each = _milliseconds(lambda: search.run(layer.feed, rows.reshape(1, len(timed), *shape)))
    return each * 2 * len(layer.indices) / len(timed)


def _milliseconds(work: Callable[[], object]) -> float:
    """The fastest of a few runs, in processor time."""
    found = []
    with torch.no_grad():
        for _ in range(_REPEATS):
            started = time.process_time()
            work()
            found.append(time.process_time() - started)
    return 1000 * max(min(found), time.get_clock_info("process_time").resolution)
