"""`closegap report`: a run store as one HTML file."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["report_command"]


@click.command("report")
@click.argument("store", metavar="RUN.DB", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="The HTML file to write."
)
def report_command(store: Path, output: Path) -> None:
    """Write the HTML report of a run that is finished, interrupted or still going on."""
    from closegap.cli.options import require_writable
    from closegap.report import write  # heavy: matplotlib

    require_writable(output, "-o")
    click.echo(f"wrote {write(store, output)}")
