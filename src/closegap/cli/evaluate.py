"""`closegap evaluate`: the robust accuracy of a network on images, bracketed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from closegap.cli.options import (
    command_line,
    data_options,
    layout_option,
    norm,
    number,
    run_options,
    work_options,
)

__all__ = ["evaluate_command"]


@click.command("evaluate")
@click.argument("model", type=click.Path(path_type=Path))
@data_options
@click.option("--eps", type=number, required=True, help="Radius, in pixels' units: 0.1 or 8/255.")
@click.option("--norm", type=norm, default="inf", show_default=True, help="inf, 2 or 1.")
@click.option("--timeout", type=number, default=60.0, show_default=True, help="Seconds an image.")
@layout_option
@run_options
def evaluate_command(model: Path, **options: Any) -> None:
    """Bracket the robust accuracy of MODEL on images.

    Every image ends as verified (no input within the radius changes the class), falsified (one
    does, and it was replayed on the ONNX file) or unknown, with the reason.
    """
    from closegap.cli.pictures import fitted, order_of
    from closegap.cli.running import Outputs, run_plan  # heavy: only what is called is loaded
    from closegap.data import load_data, select
    from closegap.evaluate import ModelFile, ProcessExecutor, Question, plan_images
    from closegap.frontend import load
    from closegap.strategy.solve import DEFAULT_ENGINES, check_engines

    outputs = Outputs(options["store"], options["report"], options["as_json"])
    engines = check_engines(options["engines"] or DEFAULT_ENGINES)
    network = load(model)
    whole = load_data(options["data"], download=options["download"])
    chosen = select(whole, limit=options["limit"], indices=options["indices"])
    order = order_of(network, options["layout"])
    data = fitted(chosen, network, options["layout"])
    executor = ProcessExecutor(options["workers"])
    plan = plan_images(
        ModelFile(str(model), network.digest),
        data,
        Question(options["eps"], options["norm"], options["timeout"]),
        work_options(engines, executor.threads, options),
        data_digest=whole.digest,
        command=command_line(),
        settings={} if order is None else {"layout": order},
    )
    run_plan(plan, executor, outputs, f"{model.name} on {data.name}, eps {options['eps']:g}")
