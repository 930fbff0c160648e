"""`closegap inspect MODEL`: what is in a model, and what of it is not supported."""

from __future__ import annotations

import json
from dataclasses import asdict

import click
from rich.console import Console
from rich.table import Table

from closegap.frontend.inspect import Inspection, inspect_model

__all__ = ["inspect_command"]


@click.command("inspect")
@click.argument("model", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, nothing else.")
@click.option(
    "--check/--no-check", default=True, show_default=True, help="Compare with onnxruntime too."
)
def inspect_command(model: str, as_json: bool, check: bool) -> None:
    """Show operators, shapes, parameters and neurons of MODEL, and what is not supported."""
    inspection = inspect_model(model, check=check)
    if as_json:
        click.echo(json.dumps({**asdict(inspection), "supported": inspection.supported}))
        return
    _show(inspection, Console())


def _show(inspection: Inspection, console: Console) -> None:
    console.print(_facts(inspection))
    if inspection.layers:
        console.print(_layers(inspection))
    if inspection.unsupported:
        console.print(_unsupported(inspection))


def _facts(inspection: Inspection) -> Table:
    table = Table(title=inspection.source, show_header=False, title_justify="left")
    output = inspection.output_shape
    rows = {
        "supported": "yes" if inspection.supported else "no",
        "problem": inspection.problem,
        "input": _shape(inspection.input_shape),
        "output": "" if output is None else _shape(output),
        "parameters": f"{inspection.parameters:,}",
        "neurons": _counts(inspection.neurons),
        "operators": _counts(inspection.operators),
        "opset": str(inspection.opset),
        "size": f"{inspection.size:,} bytes",
        "sha256": inspection.digest,
        "notes": "\n".join(inspection.notes),
    }
    for name, value in rows.items():
        if value:
            table.add_row(name, value)
    return table


def _layers(inspection: Inspection) -> Table:
    table = Table(title="layers, as computed", title_justify="left")
    for heading in ("op", "shape", "parameters", "from"):
        table.add_column(heading, justify="right" if heading == "parameters" else "left")
    for layer in inspection.layers:
        count = f"{layer.parameters:,}" if layer.parameters else ""
        table.add_row(layer.op, _shape(layer.shape), count, layer.name)
    return table


def _unsupported(inspection: Inspection) -> Table:
    table = Table(title="not supported", title_justify="left")
    for heading in ("node", "op", "why", "what would help"):
        table.add_column(heading)
    for item in inspection.unsupported:
        table.add_row(item.node, item.op, item.reason, item.advice)
    return table


def _shape(shape: tuple[int | str, ...] | tuple[int, ...]) -> str:
    return " x ".join(str(d) for d in shape) or "scalar"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items())
