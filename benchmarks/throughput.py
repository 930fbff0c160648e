"""How many subdomains a second branch and bound can bound, and what the time goes into.

    python benchmarks/throughput.py [--only NAME,...] [--batches 1,8,64] [--figure throughput.png]

A domain is bounded as the search does it: 20 steps up in float32, one evaluation in float64. Each
network is bounded as it is and, where it has one, as its reduced network; `wide` and `deep` are
random dense networks of twice the width and depth of `plain`. *products* is the share of the time
in matrix products and convolutions, the rest is overhead; *of peak* holds the rate of the products
that the climb needs against that of one plain product of square matrices in the same run. One
thread, processor seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from bounds_speed import CASES, case_query
from closegap.core.budget import Budget
from closegap.specs.property import robustness_property
from closegap.specs.query import Query
from closegap.specs.region import lp_ball
from closegap.testing.networks import random_mlp
from closegap.verify.bab.bounder import DomainBounder
from closegap.verify.bab.domains import DomainBatch
from closegap.verify.bab.options import BranchOptions
from closegap.verify.bab.problem import SplitProblem, split_problem
from closegap.verify.incomplete import LinearVerifier
from common import print_table

__all__ = ["Speed", "main"]

_COLUMNS = (
    "network", "form", "units", "batch", "domains a second", "products", "GFLOP/s", "of peak",
)  # fmt: skip
_NAMES = ("A", "B", "sri_resnet_a", "plain", "wide", "deep")
_SHAPES = {"plain": (256, 4), "wide": (512, 4), "deep": (256, 8)}
_DEPTH = 6
_SIDE = 1024
_PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "_convolution", "mkldnn_convolution",
             "convolution_backward", "slow_conv_transpose2d")  # fmt: skip


@dataclass(frozen=True)
class Speed:
    """One measurement: domains a second, share of the time in products, their rate."""

    name: str
    form: str
    units: int
    batch: int
    domains: float
    products: float
    rate: float

    def row(self, peak: float) -> tuple[str, ...]:
        """Cells of the table, `peak` in GFLOP/s."""
        return (
            self.name, self.form, str(self.units), str(self.batch), f"{self.domains:.1f}",
            f"{self.products:.0%}", f"{self.rate:.0f}", f"{self.rate / peak:.0%}",
        )  # fmt: skip


@click.command()
@click.option("--only", default=",".join(_NAMES), show_default=True, help="With commas between.")
@click.option("--batches", default="1,8,64", show_default=True, help="Domains at a time.")
@click.option("--figure", type=click.Path(path_type=Path), help="Where to draw (PNG).")
def main(**options: Any) -> None:
    """Print one row for each network, form and batch."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    peak = _peak()
    found: list[Speed] = []
    for name in options["only"].split(","):
        if name not in _NAMES:
            raise click.BadParameter(f"'{name}' is none of {', '.join(_NAMES)}")
        for form, problem in _problems(_query(name)):
            found += [_speed(name, form, problem, int(b)) for b in options["batches"].split(",")]
    print_table("Branch and bound, one thread", _COLUMNS, [speed.row(peak) for speed in found])
    click.echo(f"peak: {peak:.0f} GFLOP/s in a product of {_SIDE} x {_SIDE} float32 matrices")
    if options["figure"] is not None:
        _draw(found, options["figure"])


def _query(name: str) -> Query:
    if name in CASES:
        return case_query(CASES[name])
    width, depth = _SHAPES[name]
    rng = np.random.default_rng(0)
    network = random_mlp(rng, [784, *[width] * depth, 10])
    center = rng.uniform(0.2, 0.8, network.input_shape)
    return Query(network, lp_ball(center, 0.01), robustness_property(0, 10))


def _problems(query: Query) -> list[tuple[str, SplitProblem]]:
    """The roots in each form, with the bounds that CROWN finds."""
    bounds = LinearVerifier(query).activations(Budget())
    clauses = np.arange(query.prop.clauses)
    plain = split_problem(query, bounds, clauses, worth=0.0)
    dense = split_problem(query, bounds, clauses, worth=np.inf)
    forms = [("as it is", plain), ("reduced", dense)]
    return [(form, problem) for form, problem in forms if problem is not None]


def _speed(name: str, form: str, problem: SplitProblem, count: int) -> Speed:
    climb = replace(BranchOptions().children, patience=10**6, goal=float("inf"))
    bounder, batch = DomainBounder(problem, climb), _batch(problem, count)
    budget = Budget()
    bounder.bound(batch, budget)
    with FlopCounterMode(display=False) as counter:
        bounder.bound(batch, budget)
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        bounder.bound(batch, budget)
    events = profiled.key_averages()
    total = sum(event.self_cpu_time_total for event in events)
    products = sum(
        event.self_cpu_time_total
        for event in events
        if event.key.removeprefix("aten::") in _PRODUCTS
    )
    seconds = _fastest(lambda: bounder.bound(batch, budget))
    rate = counter.get_total_flops() / seconds / 1e9
    return Speed(name, form, problem.units, count, count / seconds, products / total, rate)


def _batch(problem: SplitProblem, count: int) -> DomainBatch:
    """Domains with a few random splits each, from root to root in turn."""
    rng = np.random.default_rng(0)
    depth = min(_DEPTH, problem.units)
    units = np.stack([rng.permutation(problem.units)[:depth] for _ in range(count)])
    signs = rng.choice(np.array([-1, 1]), (count, depth))
    return DomainBatch(np.arange(count) % len(problem.rows), units, signs)


def _peak() -> float:
    """GFLOP/s of one plain product."""
    left, right = torch.rand(_SIDE, _SIDE), torch.rand(_SIDE, _SIDE)
    return 2 * _SIDE**3 / _fastest(lambda: left @ right, 5) / 1e9


def _fastest(work: Callable[[], object], repeats: int = 2) -> float:
    best = float("inf")
    for _ in range(repeats):
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    return best


def _draw(found: list[Speed], path: Path) -> None:
    """Domains a second against the batch, a line for each network and form."""
    from matplotlib.figure import Figure

    canvas = Figure(figsize=(7, 4.5), layout="constrained")
    axes = canvas.subplots()
    for name, form in dict.fromkeys((s.name, s.form) for s in found):
        line = [s for s in found if (s.name, s.form) == (name, form)]
        axes.loglog(
            [s.batch for s in line],
            [s.domains for s in line],
            marker="o",
            linestyle="-" if form == "reduced" else "--",
            label=f"{name}, {form}",
        )
    axes.set_xlabel("domains at a time")
    axes.set_ylabel("domains a second")
    axes.legend(fontsize="small")
    canvas.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
