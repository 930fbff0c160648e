"""Least distances: exact methods and attacks beside each other, on networks of the data pack.

Seconds of methods that did not close an image count as the limit. Run with OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar

import click
import torch

from closegap.evaluate.provenance import machine
from closegap.specs.objectives import ObjectiveOptions
from common import print_table
from sparse_attacks import attack_rows, quality_row
from sparse_runs import METHODS, MODELS, Outcome, measured, queries

__all__ = ["main", "profile_of", "table_rows"]

F = TypeVar("F", bound=Callable[..., Any])

_TABLE_3 = "mnist 2x50,mnist 6x100,mnist 9x200,mnist conv_small,cifar conv_small"
_EXACT = "paper,ours,highs,scip"
#: The profile's axis ends here.
_WIDEST = 1e4
_SHORT_IMAGES, _SHORT_SECONDS = 2, 5.0


def _options(models: str, distances: str, methods: str = _EXACT) -> Callable[[F], F]:
    """What the subcommands share."""

    def decorate(function: F) -> F:
        for option in (
            click.option("--models", default=models, show_default=True),
            click.option("--distances", default=distances, show_default=True),
            click.option("--methods", default=methods, show_default=True),
            click.option("--images", default=10, show_default=True, help="Correctly classified."),
            click.option("--timeout", default=60.0, show_default=True, help="Seconds, for each."),
            click.option("--kappa", type=float, help="Of l1+tv."),
            click.option("--keep", type=click.Path(path_type=Path),
                         help="A file that keeps what was measured, and spares it the next time."),
            click.option("--short", is_flag=True,
                         help=f"{_SHORT_IMAGES} images, {_SHORT_SECONDS:g} s each."),
        ):  # fmt: skip
            function = option(function)
        return function

    return decorate


@click.group(help=__doc__)
def main() -> None:
    torch.set_num_threads(1)


@main.command()
@_options(_TABLE_3, "l2,l1,l1+tv")
def table3(**options: Any) -> None:
    """Seconds, nodes and unclosed images of exact methods (the paper's table 3)."""
    outcomes = _outcomes(options)
    columns = (
        "network, distance", "method", "T, s", "cpu, s", "nodes", "F", "ms cpu / node",
        "cpu of the first / cpu", "both", "contradicts",
    )  # fmt: skip
    print_table(_title("exact methods", options), columns, table_rows(outcomes))
    click.echo(_machine())


@main.command()
@_options(_TABLE_3, "l2,l1,l1+tv")
@click.option("--png", type=click.Path(path_type=Path), required=True)
def profile(png: Path, **options: Any) -> None:
    """Share of images closed within a multiple of the fastest method's time (figure 6)."""
    outcomes = _outcomes(options)
    figure, axes = _canvas()
    for method in _split(options["methods"], METHODS):
        ratios, total = profile_of(outcomes, method)
        shares = [(place + 1) / total for place in range(len(ratios))]
        last = shares[-1] if shares else 0.0
        axes.step([1.0, *ratios, _WIDEST], [0.0, *shares, last], where="post", label=method)
    axes.set(xscale="log", xlim=(1, _WIDEST), ylim=(0, 1.02))
    axes.set(xlabel="time / fastest method's time", ylabel="share of images closed")
    axes.legend()
    figure.savefig(png, dpi=150)
    click.echo(f"wrote {png}; {len(outcomes)} runs; {_machine()}")


@main.command()
@_options("mnist 2x20,mnist 2x50,mnist 6x100,mnist 9x200,mnist conv_small", "l1", "paper,ours")
@click.option("--png", type=click.Path(path_type=Path), required=True)
def size(png: Path, **options: Any) -> None:
    """Seconds against the number of ReLUs (figure 7)."""
    outcomes = _outcomes(options)
    models = _split(options["models"], MODELS)
    units = {model: _units(model) for model in models}
    figure, axes = _canvas()
    for method in _split(options["methods"], METHODS):
        points = sorted(
            (units[model], fmean(_seconds(o) for o in held))
            for model in models
            if (held := [o for o in outcomes if (o.model, o.method) == (model, method)])
        )
        axes.plot(*zip(*points, strict=True), marker="o", label=method)
    axes.axhline(options["timeout"], color="grey", linewidth=0.8)
    axes.set(xscale="log", yscale="log", xlabel="ReLUs", ylabel="mean seconds")
    axes.legend()
    figure.savefig(png, dpi=150)
    click.echo(f"wrote {png}; {units}; {_machine()}")


@main.command()
@_options("cifar conv_small", "l1,l1+tv", "strategy")
@click.option("--eps", default=0.1, show_default=True,
              help="Radius of FGSM and PGD; up to 0.05 every change counts as hidden.")  # fmt: skip
def table2(eps: float, **options: Any) -> None:
    """Success, sparsity and invisibility of attacks and of exact counterexamples (table 2)."""
    _shorten(options)
    columns = (
        "network", "attack", "success %", "as 8 bits %", "repaired", "sparsity %",
        "invisibility %", "PSNR", "SSIM", "pixels", "closed", "cpu, s",
    )  # fmt: skip
    rows = []
    for model in _split(options["models"], MODELS):
        asked = [query for _, query in queries(model, "l2", options["images"], _weights(options))]
        exact = _split(options["distances"], None)
        rows += attack_rows(model, asked, exact, eps, options["timeout"], _weights(options))
    what = f"attacks, of FGSM and PGD within {eps:g}, rounded to 8 bits"
    print_table(_title(what, options), columns, rows)
    click.echo(_machine())


@main.command()
@_options("mnist 2x50,mnist 6x100,mnist conv_small,cifar conv_small", "l0,l1", "strategy")
def quality(**options: Any) -> None:
    """Least distances beside what attacks reach, and how much of them is proved."""
    _shorten(options)
    columns = (
        "network, distance", "closed", "found, as 8 bits, repaired", "median upper",
        "lower / upper", "cpu, s", "beside",
    )  # fmt: skip
    rows = []
    for model, distance in _pairs(options):
        asked = [query for _, query in queries(model, distance, options["images"],
                                               _weights(options))]  # fmt: skip
        rows.append(quality_row(f"{model}, {distance}", asked, options["timeout"]))
    print_table(_title("least distances", options), columns, rows)
    click.echo(_machine())


def table_rows(outcomes: Sequence[Outcome]) -> list[list[str]]:
    """A row for each network, distance and method.

    The ratio is the geometric mean, over the images that both close, of the first method's
    processor seconds over the method's. `contradicts` counts images on which the method's bracket
    and another's exclude each other; it must be 0. A run that tells no nodes (a solver that was
    stopped) says nothing of what a node costs.
    """
    rows = []
    for model, distance in dict.fromkeys((o.model, o.distance) for o in outcomes):
        here = [o for o in outcomes if (o.model, o.distance) == (model, distance)]
        for method in dict.fromkeys(o.method for o in here):
            held = [o for o in here if o.method == method]
            nodes, cpu = sum(o.nodes for o in held), sum(o.cpu for o in held)
            told = sum(o.cpu for o in held if o.nodes)
            ratio, both = _against(here[0].method, held, here)
            rows.append(
                [
                    f"{model}, {distance}",
                    method,
                    f"{fmean(_seconds(o) for o in held):.2f}",
                    f"{cpu / len(held):.2f}",
                    f"{nodes / len(held):.0f}",
                    f"{sum(not o.closed for o in held)} of {len(held)}",
                    f"{1000 * told / nodes:.2f}" if nodes else "-",
                    f"{ratio:.2f}" if both else "-",
                    str(both),
                    str(sum(_contradicts(o, here) for o in held)),
                ]
            )
    return rows


def _against(method: str, held: Sequence[Outcome], here: Sequence[Outcome]) -> tuple[float, int]:
    base = {o.index: o.cpu for o in here if o.method == method and o.closed}
    logs = [
        math.log(max(base[o.index], 1e-3) / max(o.cpu, 1e-3))
        for o in held
        if o.closed and o.index in base
    ]
    return (math.exp(fmean(logs)), len(logs)) if logs else (math.nan, 0)


def _contradicts(outcome: Outcome, here: Iterable[Outcome]) -> bool:
    return any(o.lower > outcome.upper for o in here if o.index == outcome.index)


def profile_of(outcomes: Sequence[Outcome], method: str) -> tuple[list[float], int]:
    """The ratios of a method's processor seconds to the fastest one's, ascending; and how many
    images any method closed.
    """
    fastest: dict[tuple[str, str, int], float] = {}
    for o in outcomes:
        if o.closed:
            name = (o.model, o.distance, o.index)
            fastest[name] = min(fastest.get(name, math.inf), max(o.cpu, 1e-3))
    ratios = sorted(
        max(o.cpu, 1e-3) / fastest[o.model, o.distance, o.index]
        for o in outcomes
        if o.method == method and o.closed
    )
    return ratios, max(1, len(fastest))


def _outcomes(options: dict[str, Any]) -> list[Outcome]:
    _shorten(options)
    methods = _split(options["methods"], METHODS)
    grid = ((m, d, method) for (m, d), method in product(_pairs(options), methods))
    return measured(grid, options["images"], options["timeout"], _weights(options), options["keep"])


def _pairs(options: dict[str, Any]) -> list[tuple[str, str]]:
    return list(product(_split(options["models"], MODELS), _split(options["distances"], None)))


def _shorten(options: dict[str, Any]) -> None:
    if options["short"]:
        options.update(images=_SHORT_IMAGES, timeout=_SHORT_SECONDS)


def _weights(options: dict[str, Any]) -> ObjectiveOptions:
    kappa = options["kappa"]
    return ObjectiveOptions() if kappa is None else ObjectiveOptions(kappa=kappa)


def _split(text: str, known: Iterable[str] | None) -> list[str]:
    names = text.split(",")
    for name in names:
        if known is not None and name not in known:
            raise click.BadParameter(f"'{name}' is none of {', '.join(known)}")
    return names


def _seconds(outcome: Outcome) -> float:
    return outcome.seconds if outcome.closed else max(outcome.seconds, outcome.limit)


def _units(model: str) -> int:
    ((_, query),) = queries(model, "l1", 1, ObjectiveOptions())
    return sum(node.size for node in query.network.nodes if type(node.op).__name__ == "Relu")


def _canvas() -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    return figure, figure.subplots()


def _title(what: str, options: dict[str, Any]) -> str:
    return f"{what}: first {options['images']} images, {options['timeout']:g} s each"


def _machine() -> str:
    return ", ".join(f"{name} {value}" for name, value in machine().items())


if __name__ == "__main__":
    main()
