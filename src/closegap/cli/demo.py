"""`closegap demo`: the packaged network on held-out digits, by the ordinary evaluation."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

import closegap
from closegap.cli.evaluate import evaluate_command

__all__ = ["demo_command"]

_MODEL = Path(closegap.__file__).parent / "demo" / "digits_cnn.onnx"
_REPORT = Path("closegap-demo.html")
_EPS = 0.1  # what the network was trained for: examples/train_digits.py
_IMAGES = 100
_TIMEOUT = 20.0
_WORKERS = 2


@click.command("demo")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line on stdout.")
@click.pass_context
def demo_command(context: click.Context, as_json: bool) -> None:
    """Evaluate the packaged digits network and write closegap-demo.html.

    The network is a small convolutional one, trained on scikit-learn's digits; the images are 100
    that it never saw.
    """
    same = (
        f"closegap evaluate {shlex.quote(str(_MODEL))} --data digits --eps {_EPS} "
        f"--limit {_IMAGES} --timeout {_TIMEOUT:g} --workers {_WORKERS} --report {_REPORT}"
    )
    click.echo(f"the same as: {same}", err=True)
    context.invoke(
        evaluate_command,
        model=_MODEL,
        data="digits",
        eps=_EPS,
        limit=_IMAGES,
        timeout=_TIMEOUT,
        workers=_WORKERS,
        report=_REPORT,
        as_json=as_json,
    )
    click.echo(f"wrote {_REPORT}", err=True)
