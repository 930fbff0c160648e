"""How fast bounds on every activation are: CROWN from scratch on one thread, in processor seconds.

    python benchmarks/bounds_speed.py [--only NAME,...] [--repeats 3]

Rows are linear functions that were bounded (two for each neuron that interval arithmetic leaves
undecided). *tiles* is what rows on windows gain over rows on whole images; *float32* is what single
precision would gain, and it proves nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click
import torch

from closegap.bounds.intermediate import NetworkBounds, bound_activations
from closegap.bounds.interval import interval_of
from closegap.bounds.records import unstable
from closegap.bounds.regions import input_set
from closegap.bounds.rules import activation_rule
from closegap.core.budget import Budget
from closegap.data import fit_to_network, load_data, select
from closegap.frontend import load
from closegap.runtime.torch_network import TorchNetwork
from closegap.specs.query import Query, robustness
from closegap.specs.vnnlib import load_instances, load_vnnlib, queries
from common import data_root, print_table

__all__ = ["CASES", "Case", "case_query", "main"]

_COLUMNS = (
    "network", "rows", "unstable", "seconds", "rows a second", "whole rows, s", "tiles",
    "float32, s", "float32 gain",
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A query: the first MNIST image on a model, or a property of a VNN-COMP family."""

    place: str
    eps: float = 0.0
    instance: int = 0


CASES: dict[str, Case] = {
    "A": Case("models/bab_attack/A_mnist_madry_tiny.onnx", eps=0.3),
    "B": Case("models/bab_attack/B_mnist_cnn_a_adv.onnx", eps=0.1),
    "oval21-base": Case("vnncomp/oval21", instance=0),
    "oval21-wide": Case("vnncomp/oval21", instance=5),
    "oval21-deep": Case("vnncomp/oval21", instance=10),
    "resnet_2b": Case("vnncomp/cifar10_resnet", instance=1),
    "resnet_4b": Case("vnncomp/cifar10_resnet", instance=30),
    "sri_resnet_a": Case("vnncomp/sri_resnet_a", instance=5),
    "sri_resnet_b": Case("vnncomp/sri_resnet_b", instance=30),
}


@click.command()
@click.option("--only", default=",".join(CASES), help="Cases, with commas between.")
@click.option("--repeats", default=3, show_default=True, help="The fastest counts.")
def main(**options: Any) -> None:
    """Print one row for each case."""
    torch.set_num_threads(1)
    rows = []
    for name in options["only"].split(","):
        if name not in CASES:
            raise click.BadParameter(f"'{name}' is none of {', '.join(CASES)}")
        rows.append((name, *_measure(case_query(CASES[name]), options["repeats"])))
    print_table("Bounds on every activation, one thread", _COLUMNS, rows)


def case_query(case: Case) -> Query:
    """The query of a case."""
    place = data_root() / case.place
    if place.suffix == ".onnx":
        network = load(place)
        images = select(load_data(str(data_root() / "mnist" / "t10k.npz")), limit=1)
        data = fit_to_network(images, network.input_shape, classes=network.output_size)
        return robustness(network, data.images[0], int(data.labels[0]), case.eps)
    instance = load_instances(place / "instances.csv")[case.instance]
    return queries(load_vnnlib(instance.vnnlib), load(instance.onnx))[0]


def _measure(query: Query, repeats: int) -> tuple[str, ...]:
    exact = TorchNetwork(query.network, dtype=torch.float64)
    single = TorchNetwork(query.network, dtype=torch.float32)
    region, rough = input_set(exact, query.region), input_set(single, query.region)
    budget = Budget()
    bounds, seconds = _fastest(lambda: bound_activations(exact, region, budget), repeats)
    _, whole = _fastest(lambda: bound_activations(exact, region, budget, tiles=False), repeats)
    _, fast = _fastest(lambda: bound_activations(single, rough, budget), repeats)
    rows = _rows(exact, bounds)
    open_ = sum(int(unstable(b).sum()) for b in bounds.activations.values())
    return (str(rows), str(open_), f"{seconds:.3f}", f"{rows / seconds:.0f}", f"{whole:.3f}",
            f"{whole / seconds:.1f} x", f"{fast:.3f}", f"{seconds / fast:.1f} x")  # fmt: skip


def _fastest(work: Callable[[], NetworkBounds], repeats: int) -> tuple[NetworkBounds, float]:
    best = float("inf")
    for _ in range(repeats):
        start = time.process_time()
        bounds = work()
        best = min(best, time.process_time() - start)
    return bounds, best


def _rows(network: TorchNetwork, bounds: NetworkBounds) -> int:
    """Two for each neuron that the interval of its own sum leaves undecided."""
    graph, count = network.network, 0
    for index in graph.pre_activations:
        if index == 0:
            continue
        parents = [bounds.values[p] for p in graph.nodes[index].inputs]
        value = interval_of(network, index, parents)
        readers = [graph.nodes[r] for r in graph.consumers[index] if graph.nodes[r].is_activation]
        open_ = [activation_rule(node.op).undecided(node, value) for node in readers]
        count += 2 * int(torch.stack(open_).any(dim=0).sum())
    return count


if __name__ == "__main__":
    main()
