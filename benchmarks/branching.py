"""How many subdomains and how much time each way of choosing units takes, on real images.

    python benchmarks/branching.py [--only NAME,...] [--branching NAME,...] [--images 2]

For each network the first images that neither a quick attack nor linear bounds decide are searched
once with each branching, from the same activation bounds. The time is processor time. Ratios are to
kfsb on the same image; a search that did not finish shows how far its bound came.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import click
import numpy as np
import torch

from closegap.branching import FILTERS, SCORERS, BranchingOptions
from closegap.core.budget import Budget
from closegap.data import fit_to_network, load_data, select
from closegap.frontend import load
from closegap.specs.query import robustness
from closegap.strategy.engines import ENGINES
from closegap.strategy.session import Session
from closegap.verify.bab.options import BranchOptions
from closegap.verify.bab.problem import split_problem
from closegap.verify.bab.search import BranchAndBound
from common import data_root, print_table

__all__ = ["CASES", "Case", "main"]

_COLUMNS = (
    "network", "image", "branching", "finished", "nodes", "seconds", "least bound",
    "nodes / kfsb", "seconds / kfsb",
)  # fmt: skip
#: What decides the easy images first.
_BEFORE = ("clean", "pgd", "crown", "alpha-crown")
#: Variants of kfsb, beside the names.
_VARIANTS = {
    "kfsb product": BranchingOptions("kfsb", gain="product"),
    "kfsb guided": BranchingOptions("kfsb", guided=True),
    "kfsb cost": BranchingOptions("kfsb", cost_adjusted=True),
    "babsr guided": BranchingOptions("babsr", guided=True),
}


@dataclass(frozen=True)
class Case:
    """A network of the pack and a question about images."""

    model: str
    data: str
    eps: float


CASES: dict[str, Case] = {
    "A": Case("models/bab_attack/A_mnist_madry_tiny.onnx", "mnist/t10k.npz", 0.3),
    "mnist_conv_small": Case("models/eran/mnist_conv_small_nat.onnx", "mnist/t10k.npz", 0.12),
    "cifar_conv_small": Case(
        "models/eran/cifar_conv_small_pgd.onnx", "cifar10/images.npz", 2 / 255
    ),
    "resnet6_a": Case("models/mn_bab/resnet6_a.onnx", "cifar10/images.npz", 2 / 255),
}


@dataclass(frozen=True)
class Run:
    """One search."""

    finished: bool
    nodes: int
    seconds: float
    least: float


@click.command()
@click.option("--only", default="A,mnist_conv_small", help="Networks, with commas between.")
@click.option("--branching", default=",".join((*SCORERS, *FILTERS, *_VARIANTS)))
@click.option("--images", default=2, show_default=True, help="Undecided images of each network.")
@click.option("--limit", default=60, show_default=True, help="Look among so many images.")
@click.option("--seconds", default=20.0, show_default=True, help="A search, wall clock.")
def main(**options: Any) -> None:
    """Print one row for each network, image and branching."""
    torch.set_num_threads(1)
    for name in options["only"].split(","):
        if name not in CASES:
            raise click.BadParameter(f"'{name}' is none of {', '.join(CASES)}")
        rows: list[tuple[str, ...]] = []
        for image, session in _undecided(CASES[name], options["limit"], options["images"]):
            names = options["branching"].split(",")
            runs = {n: _search(session, _branching(n), options["seconds"]) for n in names}
            base = runs.get("kfsb")
            rows += [(name, str(image), n, *_row(run, base)) for n, run in runs.items()]
        print_table(f"{name}: {options['seconds']:g} s a search", _COLUMNS, rows)


def _branching(name: str) -> BranchingOptions:
    return _VARIANTS[name] if name in _VARIANTS else BranchingOptions(name)


def _undecided(case: Case, limit: int, count: int) -> Iterator[tuple[int, Session]]:
    """Images that the first engines leave open, with what these engines learned."""
    network = load(data_root() / case.model)
    data = select(load_data(str(data_root() / case.data)), limit=limit)
    data = fit_to_network(data, network.input_shape, classes=network.output_size)
    found = 0
    for image, label, index in zip(data.images, data.labels, data.indices, strict=True):
        session = Session(robustness(network, image, int(label), eps=case.eps))
        for name in _BEFORE:
            if not session.decided:
                ENGINES[name]().run(session, Budget.of_seconds(30))
        if session.decided or found >= count:
            continue
        found += 1
        yield int(index), session


def _search(session: Session, branching: BranchingOptions, seconds: float) -> Run:
    assert session.bounds is not None
    problem = split_problem(session.query, session.bounds, np.sort(session.open_clauses))
    assert problem is not None
    near = np.stack([candidate.point for candidate in session.pool.best(50)])
    options = replace(BranchOptions(), branching=branching)
    search = BranchAndBound(problem, options, lambda points: False, near)
    started = time.process_time()
    outcome = search.run(Budget.of_seconds(seconds))
    spent = time.process_time() - started
    least = float(outcome.lower.min(initial=np.inf))
    return Run(outcome.finished, outcome.accounting.created, spent, least)


def _row(run: Run, base: Run | None) -> tuple[str, ...]:
    comparable = base is not None and base.finished and run.finished
    ratios = ("", "")
    if base is not None and comparable:
        ratios = (f"{run.nodes / base.nodes:.2f}", f"{run.seconds / base.seconds:.2f}")
    least = "proved" if run.finished else f"{run.least:.4f}"
    finished = "yes" if run.finished else "no"
    return (finished, str(run.nodes), f"{run.seconds:.1f}", least, *ratios)


if __name__ == "__main__":
    main()
