"""What constraints on groups of neurons, and ways to branch, are worth: nodes and seconds of trees.

    python benchmarks/multineuron.py [--only NAME,...] [--images 10] [--nodes 400] [--seconds 60]

Of each network's first images those are asked about that alpha-CROWN leaves open, one clause each:
the open one whose bound is nearest to zero. Every variant searches the same problem with the same
climbs and limits, four domains at a time. *MN* has the constraints, from the root on, *vectors*
climbs on the weights of groups, *CAB* is cost-adjusted branching. Ratios are geometric means over
the instances that both decide: how many times as many nodes and seconds the first of a pair takes.
Seconds are processor seconds, the search for constraints included.

ResNet6-A is asked at 0.0035, the radius of its published benchmark: at 2/255 its root bounds are
hundreds below zero.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import geometric_mean
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray

from closegap.bounds.optimise import AscentOptions
from closegap.branching import BranchingOptions
from closegap.core.budget import Budget
from closegap.data import fit_to_network, load_data, select
from closegap.frontend import load
from closegap.specs.query import Query, robustness
from closegap.verify.bab.multineuron import MultiNeuronOptions
from closegap.verify.bab.options import BranchOptions
from closegap.verify.bab.problem import SplitProblem, split_problem
from closegap.verify.bab.search import BranchAndBound
from closegap.verify.incomplete import LinearVerifier
from common import data_root, print_table

__all__ = ["CASES", "VARIANTS", "Case", "main"]

_COLUMNS = ("network", "image", "bound", "variant", "decided", "nodes", "seconds", "least bound")
_TOTALS = ("variant", "decided", "nodes", "seconds")


@dataclass(frozen=True)
class Case:
    """A model, its images, a radius."""

    place: str
    images: str
    eps: float


_MNIST, _CIFAR = "mnist/t10k.npz", "cifar10/images.npz"
CASES: dict[str, Case] = {
    "A": Case("models/bab_attack/A_mnist_madry_tiny.onnx", _MNIST, 0.3),
    "conv_small": Case("models/mn_bab/mnist_conv_small.onnx", _MNIST, 0.12),
    "cifar_conv_small": Case("models/mn_bab/cifar_conv_small.onnx", _CIFAR, 2 / 255),
    "6x100": Case("models/eran/mnist_6_100.onnx", _MNIST, 0.02),
    "resnet6_a": Case("models/mn_bab/resnet6_a.onnx", _CIFAR, 0.0035),
    "resnet6_b": Case("models/mn_bab/resnet6_b.onnx", _CIFAR, 0.0035),
}


@dataclass(frozen=True)
class Variant:
    """A way to search."""

    branching: BranchingOptions
    groups: MultiNeuronOptions = field(default_factory=MultiNeuronOptions)


def _variants() -> dict[str, Variant]:
    found = {}
    for cab in (False, True):
        end = " + CAB" if cab else ""
        babsr, acs = (BranchingOptions(name, cost_adjusted=cab) for name in ("babsr", "acs"))
        found[f"BaBSR{end}"] = Variant(babsr)
        found[f"MN, BaBSR{end}"] = Variant(babsr, MultiNeuronOptions(after=0))
        found[f"MN, ACS{end}"] = Variant(acs, MultiNeuronOptions(after=0))
    found["MN, intercept"] = Variant(BranchingOptions("intercept"), MultiNeuronOptions(after=0))
    found["MN vectors, auto"] = Variant(
        BranchingOptions(), MultiNeuronOptions(after=0, vectors=True)
    )
    found["auto"] = Variant(BranchingOptions())
    found["MN, auto"] = Variant(BranchingOptions(), MultiNeuronOptions(after=0))
    return found


VARIANTS: dict[str, Variant] = _variants()
#: Which variants are held against each other.
_PAIRS = (
    ("BaBSR", "MN, BaBSR"),
    ("BaBSR + CAB", "MN, BaBSR + CAB"),
    ("auto", "MN, auto"),
    ("MN, auto", "MN vectors, auto"),
    ("MN, BaBSR", "MN, ACS"),
    ("MN, intercept", "MN, ACS"),
    ("MN, BaBSR + CAB", "MN, ACS + CAB"),
    ("BaBSR", "BaBSR + CAB"),
    ("MN, BaBSR", "MN, BaBSR + CAB"),
    ("MN, ACS", "MN, ACS + CAB"),
    ("BaBSR", "MN, ACS + CAB"),
)


@dataclass(frozen=True)
class Found:
    """One tree: nodes, processor seconds, whether it closed, and its bound if not."""

    nodes: int
    seconds: float
    decided: bool
    least: float


@click.command()
@click.option("--only", default="conv_small", help="Networks, with commas between.")
@click.option("--variants", default=";".join(VARIANTS), help="With semicolons between.")
@click.option("--images", default=10, show_default=True, help="So many of the first images.")
@click.option("--farthest", default=np.inf, help="Skip clauses with a bound below minus this.")
@click.option("--nodes", default=400, show_default=True, help="Nodes a tree at most.")
@click.option("--seconds", default=60.0, show_default=True, help="Seconds a tree, wall clock.")
def main(**options: Any) -> None:
    """Print one row for each instance and variant, sums, and the ratios of nodes."""
    torch.set_num_threads(1)
    names = [name.strip() for name in options["variants"].split(";")]
    for kind, known, given in (
        ("network", CASES, options["only"].split(",")),
        ("variant", VARIANTS, names),
    ):
        for name in given:
            if name not in known:
                raise click.BadParameter(f"{kind} '{name}' is none of {'; '.join(known)}")
    rows: list[tuple[str, ...]] = []
    runs: dict[str, list[Found]] = {name: [] for name in names}
    for network in options["only"].split(","):
        for image, bound, problem in _problems(CASES[network], options):
            for name in names:
                run = _search(problem, VARIANTS[name], options)
                runs[name].append(run)
                rows.append((network, str(image), f"{bound:.3f}", name, *_shown(run)))
                click.echo("  ".join(rows[-1]), err=True)
    print_table("Every tree", _COLUMNS, rows)
    print_table("All together", _TOTALS, [(name, *_total(found)) for name, found in runs.items()])
    for first, second in _PAIRS:
        if first in runs and second in runs:
            click.echo(_compared(first, second, runs))


def _shown(run: Found) -> tuple[str, ...]:
    least = "proved" if run.decided else f"{run.least:.3f}"
    return ("yes" if run.decided else "no", str(run.nodes), f"{run.seconds:.1f}", least)


def _total(found: list[Found]) -> tuple[str, ...]:
    decided = sum(run.decided for run in found)
    nodes, seconds = sum(run.nodes for run in found), sum(run.seconds for run in found)
    return (f"{decided} of {len(found)}", str(nodes), f"{seconds:.1f}")


def _compared(first: str, second: str, runs: dict[str, list[Found]]) -> str:
    pairs = [p for p in zip(runs[first], runs[second], strict=True) if all(r.decided for r in p)]
    if not pairs:
        return f"{first} / {second}: no instance that both decide"
    nodes = geometric_mean([a.nodes / b.nodes for a, b in pairs])
    seconds = geometric_mean([a.seconds / b.seconds for a, b in pairs])
    return f"{first} / {second}: {nodes:.2f} nodes, {seconds:.2f} seconds, both decide {len(pairs)}"


def _problems(case: Case, options: dict[str, Any]) -> Iterator[tuple[int, float, SplitProblem]]:
    network = load(data_root() / case.place)
    chosen = select(load_data(str(data_root() / case.images)), limit=options["images"])
    data = fit_to_network(chosen, network.input_shape, classes=network.output_size)
    for image in range(len(data.images)):
        query = robustness(network, data.images[image], int(data.labels[image]), case.eps)
        nearest = _nearest(query, options["farthest"])
        if nearest is not None:
            yield image, *nearest


def _nearest(query: Query, farthest: float) -> tuple[float, SplitProblem] | None:
    """The open clause whose bound is nearest to zero."""
    linear = LinearVerifier(query)
    every: NDArray[np.int64] = np.arange(len(query.prop.rows))
    bounds = linear.activations(Budget())
    rough = linear.rows(bounds, Budget(), every, AscentOptions(iterations=10)).lower
    if (rough > 0).all() or rough.min() < -10 * farthest:
        return None
    bounds = linear.activations(Budget.of_seconds(300), bounds, AscentOptions(iterations=8))
    lower = linear.rows(bounds, Budget(), every, AscentOptions(iterations=60)).lower
    if (lower > 0).all():
        return None
    clause = int(np.argmax(np.where(lower > 0, -np.inf, lower)))
    problem = split_problem(query, bounds, every[clause : clause + 1])
    if problem is None or lower[clause] < -farthest:
        return None
    return float(lower[clause]), problem


def _search(problem: SplitProblem, variant: Variant, options: dict[str, Any]) -> Found:
    how = BranchOptions(batch=4, branching=variant.branching, multineuron=variant.groups)
    start = time.process_time()
    search = BranchAndBound(problem, how, _decline)
    budget = Budget.of_seconds(options["seconds"], nodes=options["nodes"])
    outcome = search.run(budget)
    seconds = time.process_time() - start
    least = float(outcome.lower.min())
    return Found(outcome.accounting.created, seconds, outcome.finished, least)


def _decline(points: NDArray[np.float64]) -> bool:
    """No candidate is accepted: trees are compared, not answers."""
    return False


if __name__ == "__main__":
    main()
