"""`closegap attack --method sigma-zero` and its like: the nearest image that one attack finds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from closegap.cli.archives import ended, npz_file, witnesses, write_archive

if TYPE_CHECKING:
    from closegap.evaluate.nearest import NearestImage

__all__ = ["nearest"]


def nearest(model: Path, options: dict[str, Any]) -> None:
    """Attack every image; print rows or a table, save what was found.

    Raises:
        click.UsageError: a radius was given, or an output cannot be made.
        OptionError: the method does not know the norm.
    """
    name = options["method"]
    if options["eps"] is not None:
        raise click.UsageError(f"{name} looks for the nearest image and takes no --eps")
    from closegap.attacks.gradient.options import AttackOptions
    from closegap.attacks.minimal.registry import make_minimal
    from closegap.cli.display import print_nearest
    from closegap.cli.pictures import fitted
    from closegap.cli.rows import print_row
    from closegap.data import load_data, select
    from closegap.evaluate.nearest import attack_nearest
    from closegap.frontend import load

    save = npz_file(options["save"])
    sizes = AttackOptions(options["steps"], options["restarts"], options["step_size"])
    attack = make_minimal(name, sizes, options["norm"])
    network = load(model)
    whole = load_data(options["data"], download=options["download"])
    chosen = select(whole, limit=options["limit"], indices=options["indices"])
    data = fitted(chosen, network, options["layout"])
    found: list[NearestImage] = []

    def show() -> None:
        if not options["as_json"]:
            title = f"{name} on {model.name}, {data.name}, l{attack.method.norm:g}"
            print_nearest([image.row() for image in found], title)

    def write(path: Path) -> None:
        _write(path, data.images, found)

    with ended(found, len(data), save, write, show):
        for image in attack_nearest(
            network,
            data,
            attack,
            timeout=options["timeout"],
            seed=options["seed"],
            layout=options["layout"],
        ):
            found.append(image)
            if options["as_json"]:
                print_row(image.row())


def _write(path: Path, clean: Any, found: Sequence[NearestImage]) -> None:
    """The witness where one was found, else the clean image."""
    import numpy as np

    write_archive(
        path,
        images=witnesses(clean, [image.bracket for image in found]),
        labels=np.array([image.label for image in found], dtype=np.int64),
        indices=np.array([image.index for image in found], dtype=np.int64),
        margins=np.array([image.bracket.upper for image in found]),
        broken=np.array([image.broken for image in found]),
        distances=np.array([image.distance for image in found]),
    )
