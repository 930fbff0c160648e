"""`closegap attack --minimise`: how near is the nearest counterexample?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

__all__ = ["minimise"]


def minimise(model: Path, options: dict[str, Any], save: Path | None) -> None:
    """Bracket the distance of every image, print rows or a table, save the witnesses.

    Raises:
        click.UsageError: options of a single attack were given too.
    """
    from closegap.cli.display import print_distances, print_row
    from closegap.data import fit_to_network, load_data, select
    from closegap.evaluate.distances import measure_data
    from closegap.frontend import load

    for name in ("method", "eps", "steps", "restarts", "step_size"):
        if options[name] is not None:
            raise click.UsageError(f"--minimise and --{name.replace('_', '-')} exclude each other")
    network = load(model)
    whole = load_data(options["data"], download=options["download"])
    chosen = select(whole, limit=options["limit"], indices=options["indices"])
    data = fit_to_network(chosen, network.input_shape, classes=network.output_size)
    measured = []
    distance = options["minimise"]
    for image in measure_data(network, data, distance, options["timeout"], seed=options["seed"]):
        measured.append(image)
        if options["as_json"]:
            print_row(image.row())
    if save is not None:
        _write(save, data.images, measured)
    if not options["as_json"]:
        title = f"least l{distance:g} distances on {model.name}, {data.name}"
        print_distances([image.row() for image in measured], title)


def _write(path: Path, clean: Any, measured: list[Any]) -> None:
    """The nearest counterexamples as a data set, the clean image where there is none."""
    import numpy as np

    from closegap.core.errors import OptionError

    images = np.array(clean)
    for row, image in enumerate(measured):
        if image.result.witness is not None:
            images[row] = image.result.witness
    try:
        np.savez_compressed(
            path,
            images=images,
            labels=np.array([image.label for image in measured], dtype=np.int64),
            indices=np.array([image.index for image in measured], dtype=np.int64),
            lower=np.array([image.result.lower for image in measured]),
            upper=np.array([image.result.upper for image in measured]),
        )
    except OSError as error:
        raise OptionError(f"--save {path}: cannot be written ({error.strerror})") from None
