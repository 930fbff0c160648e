"""Compare the installed LP and MIP backends on generated programs.

    python benchmarks/mip_backends.py [--instances N] [--seconds S]

Integer programs: ReLU networks over a box, knapsacks, dense mixed programs. For each family and
backend the median seconds, the median nodes, how many were closed within the limit, and the ratio
of total time to the family's best backend (a run that did not close counts its limit). All closed
optima are compared; a disagreement ends the benchmark with exit code 1.

Linear programs: a session's re-solve after a change of costs or bounds against a cold solve.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median

import click
import numpy as np

from closegap.core.numerics import MIP_ROW_SLACK
from closegap.mip.highs import HighsBackend
from closegap.mip.model import Claim, Model, SolveOptions, Status
from closegap.mip.registry import available, backend
from closegap.testing.mip_models import knapsack, random_binary, random_linear, relu_chain
from common import print_table

_FAMILIES: dict[str, Callable[[np.random.Generator], Model]] = {
    "ReLU network 30-20-12": lambda rng: relu_chain(rng, inputs=30, widths=(20, 12)),
    "ReLU network 60-30-8": lambda rng: relu_chain(rng, inputs=60, widths=(30, 8)),
    "knapsack 40 x 3": lambda rng: knapsack(rng, items=40, rows=3),
    "dense mixed 14 + 20": lambda rng: random_binary(rng, rows=14, binaries=14, reals=20),
}


@dataclass(frozen=True)
class _Run:
    claim: Claim
    seconds: float

    @property
    def closed(self) -> bool:
        return self.claim.status is Status.OPTIMAL


@click.command()
@click.option("--instances", default=3, show_default=True, help="programs of each family")
@click.option("--seconds", default=10.0, show_default=True, help="limit of each solve")
@click.option("--seed", default=0, show_default=True)
def main(instances: int, seconds: float, seed: int) -> None:
    """Print both tables."""
    rows: list[tuple[str, ...]] = []
    for family, build in _FAMILIES.items():
        rng = np.random.default_rng(seed)
        models = [build(rng) for _ in range(instances)]
        rows += _compare(family, models, seconds)
    integer = ("family", "backend", "closed", "median s", "median nodes", "x best")
    print_table(f"Integer programs, {instances} each, limit {seconds:g} s", integer, rows)
    linear = ("rows x columns", "cold ms", "new bounds ms", "new costs ms", "new rows ms")
    print_table("Linear programs in a HiGHS session (medians)", linear, _sessions(seed))


def _compare(family: str, models: list[Model], limit: float) -> list[tuple[str, ...]]:
    runs: dict[str, list[_Run]] = {}
    for name in available():
        solver = backend(name)
        solver.solve(random_linear(np.random.default_rng(0), rows=2, columns=2), SolveOptions())
        run = partial(solver.solve, options=SolveOptions(time_limit=limit))
        runs[name] = [_timed(run, model) for model in models]
    _agree(family, models, runs)
    totals = {
        name: sum(run.seconds if run.closed else limit for run in of) for name, of in runs.items()
    }
    best = min(totals.values())
    return [
        (
            family,
            name,
            f"{sum(run.closed for run in of)}/{len(of)}",
            f"{median(run.seconds for run in of):.2f}",
            f"{median(run.claim.nodes for run in of):.0f}",
            f"{totals[name] / best:.1f}",
        )
        for name, of in runs.items()
    ]


def _timed(solve: Callable[[Model], Claim], model: Model) -> _Run:
    begun = time.perf_counter()
    claim = solve(model)
    return _Run(claim, time.perf_counter() - begun)


def _agree(family: str, models: list[Model], runs: dict[str, list[_Run]]) -> None:
    for index in range(len(models)):
        optima = {n: of[index].claim.objective for n, of in runs.items() if of[index].closed}
        if not optima:
            continue
        scale = 1.0 + max(abs(value) for value in optima.values())
        if max(optima.values()) - min(optima.values()) > MIP_ROW_SLACK * scale:
            raise click.ClickException(f"{family}, instance {index}: optima differ: {optima}")


def _sessions(seed: int) -> list[tuple[str, ...]]:
    return [_session_row(np.random.default_rng(seed), *shape) for shape in ((60, 200), (150, 784))]


def _session_row(rng: np.random.Generator, rows: int, columns: int) -> tuple[str, ...]:
    model = random_linear(rng, rows=rows, columns=columns)
    session = HighsBackend().session(model)
    session.solve(SolveOptions())
    some = np.sort(rng.choice(columns, size=3, replace=False))
    times: dict[str, list[float]] = {"cold": [], "bounds": [], "costs": [], "rows": []}
    for _ in range(5):
        times["cold"].append(HighsBackend().solve(session.model(), SolveOptions()).seconds)
        session.set_column_bounds(some, model.lower[some] - 0.1, model.upper[some] - 0.1)
        times["bounds"].append(session.solve(SolveOptions()).seconds)
        session.set_costs(model.cost + 0.05 * rng.normal(size=columns))
        times["costs"].append(session.solve(SolveOptions()).seconds)
        extra = random_linear(rng, rows=2, columns=columns)
        activity = extra.matrix @ np.asarray(session.solve(SolveOptions()).point)
        session.add_rows(extra.matrix, np.full(2, -np.inf), activity - 0.01)
        times["rows"].append(session.solve(SolveOptions()).seconds)
    return (f"{rows} x {columns}", *(f"{1e3 * median(of):.1f}" for of in times.values()))


if __name__ == "__main__":
    main()
