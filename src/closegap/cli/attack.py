"""`closegap attack`: one attack on images of a data set."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from closegap.cli.archives import ended, npz_file, witnesses, write_archive
from closegap.cli.options import (
    data_options,
    given,
    layout_option,
    names,
    norm_or_pixels,
    number,
    tolerance,
)

if TYPE_CHECKING:
    from closegap.evaluate.attacking import AttackedImage

__all__ = ["attack_command"]


@click.command("attack")
@click.argument("model", type=click.Path(path_type=Path))
@data_options
@click.option(
    "--method",
    help="Which attack, such as pgd, region-walk, lippa, mip or bab-attack; or one that looks "
    "for the nearest image: sigma-zero, fmn, ead, sparsefool, deepfool, cw or fab-nearest.",
)
@click.option("--eps", type=number, help="Radius, in pixels' units: 0.1 or 8/255.")
@click.option(
    "--norm",
    type=norm_or_pixels,
    help="inf (the default), 2 or 1; of the nearest image also 0, which counts pixels, and the "
    "method's own if it is left out.",
)
@click.option(
    "--minimise",
    type=names,
    metavar="DISTANCES",
    help="How near is a counterexample? Of linf, l2, l1, l0, l1+tv and weighted-l1 any, "
    "with commas between; what one finds at an image serves the others.",
)
@click.option("--kappa", type=number, help="Of l1+tv: weight of the total variation.")
@click.option(
    "--tv-of",
    type=click.Choice(["image", "difference"]),
    help="Of l1+tv: whose total variation, the image's if it is left out.",
)
@click.option(
    "--isotropic", is_flag=True, help="Of l1+tv: lengths of gradients, not sums of differences."
)
@click.option(
    "--target", type=click.IntRange(min=0), help="With --minimise: the one class that counts."
)
@click.option(
    "--outright",
    is_flag=True,
    help="With --target: it must win over every class, not only over the label.",
)
@layout_option
@click.option(
    "--exact",
    metavar="SOLVER",
    help="With --minimise: one of tree, paper, paper-clarabel, mip, highs, scip and gurobi alone "
    "for the lower end.",
)
@click.option(
    "--tolerance",
    type=tolerance,
    help="With --minimise: a bracket this narrow is closed: a number such as 1e-5, in the "
    "distance's units, or a share of the distance such as 0.1%; the lesser of 1e-4 and 0.1% if it "
    "is left out.",
)
@click.option("--steps", type=click.IntRange(min=1), help="Gradient steps.")
@click.option("--restarts", type=click.IntRange(min=1), help="Independent runs for each target.")
@click.option("--step-size", type=number, help="Of the first step, as a share of the radius.")
@click.option("--timeout", type=number, default=60.0, show_default=True, help="Seconds an image.")
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Of every random choice.",
)
@click.option(
    "--save",
    type=click.Path(path_type=Path),
    help="Write what was found as an .npz; or to a folder, an .npz for each distance.",
)
@click.option(
    "--png", type=click.Path(path_type=Path), help="With --minimise: write pictures to this folder."
)
@click.option(
    "--store",
    type=click.Path(path_type=Path),
    help="With --minimise: keep the run in this file, or continue it.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line on stdout.")
def attack_command(model: Path, **options: Any) -> None:
    """Search for adversarial images of MODEL with one attack.

    Only an input that was replayed on the ONNX file counts. Finding none proves nothing.

    With --minimise, bracket the distance to the nearest one instead of --method and --eps.
    sigma-zero, fmn, ead, sparsefool, deepfool, cw and fab-nearest only look for a near one, in
    little time.
    """
    if options["minimise"] is not None:
        from closegap.cli.minimise import minimise

        minimise(model, options)
        return
    minimising = ("kappa", "tv_of", "isotropic", "png", "store", "target", "exact", "outright")
    for name in (*minimising, "tolerance"):
        if given(options[name]):
            raise click.UsageError(f"--{name.replace('_', '-')} goes with --minimise")
    if options["method"] is None:
        raise click.UsageError("--method is missing; or ask for --minimise linf")
    from closegap.attacks.minimal.registry import MINIMAL

    if options["method"] in MINIMAL:
        from closegap.cli.nearest import nearest

        nearest(model, options)
        return
    if options["eps"] is None:
        free = ", ".join(MINIMAL)
        raise click.UsageError(f"--eps is missing; only --minimise and {free} take none")
    _attack(model, options)


def _attack(model: Path, options: dict[str, Any]) -> None:
    """One attack within a radius: rows or a summary, and what was found in a file."""
    from closegap.attacks.gradient.options import AttackOptions
    from closegap.attacks.registry import make_attack
    from closegap.cli.display import print_attack_summary
    from closegap.cli.pictures import fitted
    from closegap.cli.rows import print_row
    from closegap.data import load_data, select
    from closegap.evaluate import Question
    from closegap.evaluate.attacking import attack_data
    from closegap.frontend import load

    save = npz_file(options["save"])
    radius_norm = math.inf if options["norm"] is None else options["norm"]
    question = Question(options["eps"], radius_norm, options["timeout"])
    sizes = AttackOptions(options["steps"], options["restarts"], options["step_size"])
    method = make_attack(options["method"], sizes)
    network = load(model)
    whole = load_data(options["data"], download=options["download"])
    chosen = select(whole, limit=options["limit"], indices=options["indices"])
    data = fitted(chosen, network, options["layout"])
    attacked: list[AttackedImage] = []

    def show() -> None:
        if not options["as_json"]:
            title = f"{method.name} on {model.name}, {data.name}, eps {question.eps:g}"
            print_attack_summary([image.record for image in attacked], title)

    def write(path: Path) -> None:
        _write(path, data.images, attacked)

    with ended(attacked, len(data), save, write, show):
        for image in attack_data(network, data, question, method, seed=options["seed"]):
            attacked.append(image)
            if options["as_json"]:
                print_row(image.record.row())


def _write(path: Path, clean: Any, found: Sequence[AttackedImage]) -> None:
    """The witness where one was found, else the clean image."""
    import numpy as np

    write_archive(
        path,
        images=witnesses(clean, [image.bracket for image in found]),
        labels=np.array([image.record.label for image in found], dtype=np.int64),
        indices=np.array([image.record.index for image in found], dtype=np.int64),
        margins=np.array([image.record.upper for image in found]),
        broken=np.array([image.record.verdict == "falsified" for image in found]),
    )
