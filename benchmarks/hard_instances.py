"""Brackets of images that published tools left open: branch and cut, SCIP, plain branch and bound.

python benchmarks/hard_instances.py [--indices 9924,3302 | all] [--seconds 60] [--store FOLDER]
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from closegap.data import fit_to_network, load_data, select
from closegap.evaluate import EvaluationPlan, ModelFile, Question, WorkOptions, plan_images
from closegap.frontend import load
from closegap.store import Record
from closegap.strategy.solve import DEFAULT_ENGINES
from common import data_root, describe_machine, print_table, run_records

__all__ = ["METHODS", "main"]

_MODEL = "models/bab_attack/A_mnist_madry_tiny.onnx"
_INDICES = "hard_instances/A_mip_unknown.txt"
_EPS = 0.3
_ROOT = ("clean", "pgd", "crown", "alpha-crown")

#: By name, the engines in order. The first three share what is cheap, the program of SCIP sees the
#: bounds of CROWN only, as its usual encoding does.
METHODS: dict[str, tuple[str, ...]] = {
    "closegap": DEFAULT_ENGINES,
    "cuts": (*_ROOT, "cuts"),
    "bab": (*_ROOT, "bab"),
    "scip": ("clean", "pgd", "crown", "mip"),
}


@click.command()
@click.option("--indices", default="all", show_default=True, help="Images, with commas between.")
@click.option("--seconds", default=60.0, show_default=True, help="For each image and method.")
@click.option("--methods", default=",".join(METHODS), show_default=True)
@click.option("--workers", default=1, show_default=True, help="Processes.")
@click.option("--store", type=click.Path(path_type=Path), help="Folder to keep and continue runs.")
@click.option("--png", type=click.Path(path_type=Path), help="Where to draw the brackets.")
def main(**options: Any) -> None:
    """Print one row for each image: every method's bracket."""
    methods = options["methods"].split(",")
    unknown = [name for name in methods if name not in METHODS]
    if unknown:
        raise click.BadParameter(f"'{unknown[0]}' is none of {', '.join(METHODS)}")
    indices = _indices(options["indices"])
    found: dict[str, list[Record]] = {}
    machine = ""
    for name in methods:
        plan = _plan(indices, options["seconds"], METHODS[name])
        place = None if options["store"] is None else options["store"] / f"{name}.db"
        found[name] = run_records(plan, options["workers"], place)
        machine = describe_machine(plan)
    rows = [
        (str(index), *(_cell(found[name][place]) for name in methods))
        for place, index in enumerate(sorted(indices))
    ]
    print_table(f"brackets after {options['seconds']:g} s", ("image", *methods), rows)
    click.echo(f"{options['workers']} workers; {machine}")
    if options["png"] is not None:
        _draw(options["png"], sorted(indices), found)


def _indices(text: str) -> tuple[int, ...]:
    if text != "all":
        return tuple(int(part) for part in text.split(","))
    return tuple(int(line) for line in (data_root() / _INDICES).read_text().split())


def _plan(indices: Sequence[int], seconds: float, engines: tuple[str, ...]) -> EvaluationPlan:
    path = data_root() / _MODEL
    network = load(path)
    whole = load_data(str(data_root() / "mnist" / "t10k.npz"))
    chosen = select(whole, indices=sorted(indices))
    data = fit_to_network(chosen, network.input_shape, classes=network.output_size)
    return plan_images(
        ModelFile(str(path), network.digest),
        data,
        Question(_EPS, timeout=seconds),
        WorkOptions(engines),
        data_digest=whole.digest,
        command=" ".join(sys.argv),
    )


def _cell(record: Record) -> str:
    return f"{record.verdict} [{record.lower:.3f}, {record.upper:.3f}] {record.seconds:.0f} s"


def _draw(path: Path, indices: Sequence[int], found: Mapping[str, Sequence[Record]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1 + 0.5 * len(indices)), layout="constrained")
    axes = figure.subplots()
    step = 0.8 / len(found)
    for rank, (name, records) in enumerate(found.items()):
        places = [place + rank * step for place in range(len(records))]
        lower = [record.lower for record in records]
        widths = [record.upper - record.lower for record in records]
        axes.barh(places, widths, height=step, left=lower, label=name)
    axes.axvline(0.0, color="black", linewidth=1)
    axes.set_yticks(range(len(indices)), [str(index) for index in indices])
    axes.set_xlabel("margin")
    axes.legend()
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
