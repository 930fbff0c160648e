"""`closegap demo`: a packaged network on held-out digits, by the ordinary evaluation."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

import closegap
from closegap.cli.evaluate import evaluate_command

__all__ = ["demo_command"]

_FOLDER = Path(closegap.__file__).parent / "demo"
_REPORT = Path("closegap-demo.html")
_EPS = 0.1  # what the network was trained for: examples/train_digits.py
_BINARIZED_EPS = 0.02  # of plain training, examples/train_bnn.py: at 0.1 hardly an image is safe
_IMAGES = 100
_TIMEOUT = 20.0
_WORKERS = 2


@click.command("demo")
@click.option("--binarized", is_flag=True, help="The network of signs instead.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line on stdout.")
@click.pass_context
def demo_command(context: click.Context, binarized: bool, as_json: bool) -> None:
    """Evaluate a packaged digits network and write closegap-demo.html.

    The network is a small convolutional one, or with --binarized one whose weights and activations
    are +1 and -1, trained on scikit-learn's digits; the images are 100 that it never saw.
    """
    model = _FOLDER / ("digits_bnn.onnx" if binarized else "digits_cnn.onnx")
    eps = _BINARIZED_EPS if binarized else _EPS
    same = (
        f"closegap evaluate {shlex.quote(str(model))} --data digits --eps {eps} "
        f"--limit {_IMAGES} --timeout {_TIMEOUT:g} --workers {_WORKERS} --report {_REPORT}"
    )
    click.echo(f"the same as: {same}", err=True)
    context.invoke(
        evaluate_command,
        model=model,
        data="digits",
        eps=eps,
        limit=_IMAGES,
        timeout=_TIMEOUT,
        workers=_WORKERS,
        report=_REPORT,
        as_json=as_json,
    )
    click.echo(f"wrote {_REPORT}", err=True)
