"""`closegap attack --minimise`: how near is the nearest counterexample?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from closegap.cli.archives import write_archive
from closegap.cli.options import command_line, folder, given, require_writable

if TYPE_CHECKING:
    from closegap.evaluate.distances import DistancePlan
    from closegap.store import DistanceRecord, RunStore

__all__ = ["minimise"]

_ALIASES = {"inf": "linf", "2": "l2", "1": "l1", "0": "l0"}
_FOREIGN = ("method", "eps", "norm", "steps", "restarts", "step_size")


def minimise(model: Path, options: dict[str, Any]) -> None:
    """Bracket the distances of every image; print rows or a table, save witnesses and pictures.

    Raises:
        click.UsageError: options of a single attack were given too, or an output cannot be made.
        KeyboardInterrupt: after all that, with a note that says what is kept.
    """
    from closegap.cli.display import print_distances
    from closegap.store import RunStore

    for name in _FOREIGN:
        if options[name] is not None:
            raise click.UsageError(f"--minimise and --{name.replace('_', '-')} exclude each other")
    names = tuple(dict.fromkeys(_ALIASES.get(name, name) for name in options["minimise"]))
    for name in ("kappa", "tv_of", "isotropic"):
        if given(options[name]) and "l1+tv" not in names:
            raise click.UsageError(f"--{name.replace('_', '-')} goes with --minimise l1+tv")
    save, png = options["save"], folder(options["png"], "--png")
    if save is not None and save.suffix == ".npz":
        require_writable(save, "--save")
    else:
        save = folder(save, "--save")
    plan = _plan(model, names, options)
    _say_undrawn(png, plan)
    with ExitStack() as stack:
        store = None
        if options["store"] is not None:
            store = RunStore.create_or_resume(options["store"], plan.header)
            stack.enter_context(store)
        records: list[DistanceRecord] = []

        def show() -> None:
            if records and not options["as_json"]:
                title = f"least distances on {model.name}, {plan.data.name}"
                print_distances([record.row() for record in records], title)

        stack.callback(show)  # whatever becomes of the files
        stack.callback(_save, save, plan, records)
        try:
            for held in _by_image(plan, store):
                records.extend(held)
                _show(held, png, as_json=options["as_json"])
        except KeyboardInterrupt as error:
            error.add_note(_kept(len(records), save, store))
            raise


def _plan(model: Path, names: Sequence[str], options: dict[str, Any]) -> DistancePlan:
    from closegap.cli.pictures import fitted, order_of
    from closegap.data import load_data, select
    from closegap.evaluate.distances import Distance, plan_distances
    from closegap.frontend import load
    from closegap.specs.objectives import ObjectiveOptions

    defaults = ObjectiveOptions()
    weight = defaults.kappa if options["kappa"] is None else options["kappa"]
    chosen = ObjectiveOptions(weight, options["tv_of"] or defaults.of, options["isotropic"])
    network = load(model)
    whole = load_data(options["data"], download=options["download"])
    part = select(whole, limit=options["limit"], indices=options["indices"])
    target = options["target"]
    if options["outright"] and target is None:
        raise click.UsageError("--outright goes with --target")
    if target is not None:
        others = part.indices[part.labels != target]
        if not others.size:
            raise click.UsageError(f"--target {target}: every image is of this class")
        if target >= network.output_size:
            raise click.UsageError(f"--target {target}: classes are 0..{network.output_size - 1}")
        if len(others) < len(part):
            left = len(part) - len(others)
            click.echo(f"--target {target}: left out, being of this class: {left}", err=True)
        part = select(part, indices=others.tolist())
    data, layout = fitted(part, network, options["layout"]), order_of(network, options["layout"])
    kept = (target, options["exact"], layout, options["outright"], options["tolerance"])
    return plan_distances(
        network,
        data,
        [Distance(name, chosen, *kept) for name in names],
        timeout=options["timeout"],
        seed=options["seed"],
        data_digest=whole.digest,
        command=command_line(),
    )


def _by_image(plan: DistancePlan, store: RunStore | None) -> Iterator[tuple[DistanceRecord, ...]]:
    """The records of one image after the other, at an interruption those of a part of it."""
    held: dict[str, DistanceRecord] = {}
    index: int | None = None
    try:
        for record in _told(plan, store):
            if held and index != record.index:
                yield tuple(held.values())
                held = {}
            index, held[record.key] = record.index, record  # with a nearer witness, in its place
    except KeyboardInterrupt:
        yield tuple(held.values())
        raise
    yield tuple(held.values())


def _show(held: Sequence[DistanceRecord], png: Path | None, *, as_json: bool) -> None:
    from closegap.cli.rows import print_row
    from closegap.report import write_pictures

    for record in held if as_json else ():
        print_row(record.row())
    if png is not None:
        write_pictures(png, held)


def _say_undrawn(png: Path | None, plan: DistancePlan) -> None:
    """A line on stderr where pictures are asked for of inputs that are none."""
    from closegap.report.pictures import SHORTEST_SIDE, layout

    if png is not None and layout(plan.data.images[0]) is None:
        shape, side = list(plan.data.shape), SHORTEST_SIDE
        click.echo(
            f"--png: inputs of shape {shape} are no pictures, so none are written; a picture is "
            f"grey or of three channels, with {side} pixels a side or more",
            err=True,
        )


def _kept(done: int, save: Path | None, store: RunStore | None) -> str:
    """What an interrupted run leaves."""
    if store is not None:
        finished = len(store.distance_keys())
        return f"{finished} distances are in {store.path}; the same command continues"
    if save is None:
        return f"{done} brackets were shown; --save keeps the images, --store what is finished"
    return f"{done} brackets and images are in {save}; --store keeps what is finished"


def _told(plan: DistancePlan, store: RunStore | None) -> Iterator[DistanceRecord]:
    """The records, each with a line on stderr."""
    from closegap.cli.display import tell_distance
    from closegap.evaluate.distances import measure

    total, told = len(plan.data) * len(plan.distances), dict[str, int]()
    for record in measure(plan, store):
        done = told.setdefault(record.key, len(told) + 1)
        tell_distance(record, done, total)
        yield record


def _save(path: Path | None, plan: DistancePlan, records: Sequence[DistanceRecord]) -> None:
    """One archive, or in a folder one for each distance; nothing where there is no record."""
    if path is None or not records:
        return
    if path.suffix == ".npz":
        _archive(path, plan, records)
        return
    for name in dict.fromkeys(record.distance for record in records):
        kept = [record for record in records if record.distance == name]
        _archive(path / f"{name}.npz", plan, kept)


def _archive(path: Path, plan: DistancePlan, records: Sequence[DistanceRecord]) -> None:
    """The nearest counterexamples as a data set, the clean image where there is none."""
    import numpy as np

    clean = dict(zip(plan.data.indices.tolist(), plan.data.images, strict=True))
    images = [
        clean[record.index] if record.pictures is None else record.pictures.witness
        for record in records
    ]
    write_archive(
        path,
        images=np.stack(images),
        labels=np.array([record.label for record in records], dtype=np.int64),
        indices=np.array([record.index for record in records], dtype=np.int64),
        lower=np.array([record.lower for record in records]),
        upper=np.array([record.upper for record in records]),
        distances=np.array([record.distance for record in records]),
    )
