"""What constraints on groups of neurons gain: root bounds and nodes with and without, in one run.

    python benchmarks/multineuron.py [--only NAME,...] [--images 10] [--nodes 400] [--seconds 20]

Of each network's first images those are asked about that alpha-CROWN leaves open, one clause at a
time: the one whose bound is nearest to zero. Roots and trees have the same climbs and the same
limits. *root* is what the constraints add to the root's bound, in units of its distance to zero.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from statistics import geometric_mean
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray

from closegap.bounds.optimise import AscentOptions
from closegap.core.budget import Budget
from closegap.data import fit_to_network, load_data, select
from closegap.frontend import load
from closegap.specs.query import Query, robustness
from closegap.verify.bab.multineuron import MultiNeuronOptions
from closegap.verify.bab.problem import SplitProblem, split_problem
from closegap.verify.bab.search import BranchAndBound, BranchOptions
from closegap.verify.incomplete import LinearVerifier
from common import data_root, print_table

__all__ = ["CASES", "Case", "main"]

_COLUMNS = (
    "network", "image", "bound", "groups of", "root bound", "root", "nodes", "nodes with",
    "seconds", "seconds with",
)  # fmt: skip


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
    "6x100": Case("models/eran/mnist_6_100.onnx", _MNIST, 0.02),
    "resnet6_a": Case("models/mn_bab/resnet6_a.onnx", _CIFAR, 2 / 255),
}
_INNER = AscentOptions(iterations=10, patience=10)
VARIANTS: dict[str, MultiNeuronOptions] = {
    "2": MultiNeuronOptions(size=2),
    "3": MultiNeuronOptions(size=3),
    "3, climbed": MultiNeuronOptions(size=3, octahedra=_INNER),
}


@dataclass(frozen=True)
class Found:
    """One tree: its root's bound, nodes, processor seconds, whether it closed."""

    root: float
    nodes: int
    seconds: float
    finished: bool

    @property
    def count(self) -> str:
        """Nodes; a plus where the tree stayed open."""
        return f"{self.nodes}{'' if self.finished else '+'}"


@click.command()
@click.option("--only", default="A,conv_small,6x100", help="Networks, with commas between.")
@click.option("--images", default=10, show_default=True, help="So many of the first images.")
@click.option("--nodes", default=400, show_default=True, help="Nodes a tree at most.")
@click.option("--seconds", default=20.0, show_default=True, help="Seconds a tree at most.")
def main(**options: Any) -> None:
    """Print one row for each instance and variant, and the means of the ratios."""
    torch.set_num_threads(1)
    rows: list[tuple[str, ...]] = []
    ratios: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for name in options["only"].split(","):
        if name not in CASES:
            raise click.BadParameter(f"'{name}' is none of {', '.join(CASES)}")
        for image, problem in _problems(CASES[name], options["images"]):
            plain = _search(problem, None, options)
            for kind, groups in VARIANTS.items():
                held = _search(problem, groups, options)
                gain = (held.root - plain.root) / max(abs(plain.root), np.finfo(float).tiny)
                ratios[kind].append(plain.nodes / held.nodes)
                shown = "proved" if held.root > 0 else f"{held.root:.3f}"
                rows.append((
                    name, str(image), f"{plain.root:.3f}", kind, shown, f"{gain:+.0%}",
                    plain.count, held.count, f"{plain.seconds:.1f}", f"{held.seconds:.1f}",
                ))  # fmt: skip
                click.echo("  ".join(rows[-1]), err=True)
    print_table("Branch and bound with constraints on groups of neurons", _COLUMNS, rows)
    for kind, found in ratios.items():
        if found:
            click.echo(f"groups of {kind}: {geometric_mean(found):.2f} times fewer nodes")


def _problems(case: Case, images: int) -> Iterator[tuple[int, SplitProblem]]:
    network = load(data_root() / case.place)
    chosen = select(load_data(str(data_root() / case.images)), limit=images)
    data = fit_to_network(chosen, network.input_shape, classes=network.output_size)
    for image in range(len(data.images)):
        query = robustness(network, data.images[image], int(data.labels[image]), case.eps)
        problem = _nearest(query)
        if problem is not None:
            yield image, problem


def _nearest(query: Query) -> SplitProblem | None:
    """The open clause whose bound is nearest to zero."""
    linear = LinearVerifier(query)
    bounds = linear.activations(Budget())
    bounds = linear.activations(Budget.of_seconds(20), bounds, AscentOptions(iterations=12))
    every: NDArray[np.int64] = np.arange(len(query.prop.rows))
    lower = linear.rows(bounds, Budget(), every, AscentOptions(iterations=60)).lower
    if (lower > 0).all():
        return None
    clause = np.argmax(np.where(lower > 0, -np.inf, lower))
    return split_problem(query, bounds, every[clause : clause + 1])


def _search(
    problem: SplitProblem, groups: MultiNeuronOptions | None, options: dict[str, Any]
) -> Found:
    climbs = BranchOptions(nodes=options["nodes"])
    start = time.process_time()
    search = BranchAndBound(problem, replace(climbs, multineuron=groups), _decline)
    alone = BranchAndBound(problem, replace(climbs, multineuron=groups, nodes=1), _decline)
    outcome = search.run(Budget.of_seconds(options["seconds"]))
    seconds = time.process_time() - start
    root = float(alone.run(Budget.of_seconds(options["seconds"])).lower[0])
    return Found(root, outcome.accounting.created, seconds, outcome.finished)


def _decline(points: NDArray[np.float64]) -> bool:
    """No candidate is accepted: trees are compared, not answers."""
    return False


if __name__ == "__main__":
    main()
