"""Binarized networks: attacks, proofs, and the exact form against floating point.

Networks are those of `examples/train_bnn.py`, in --nets (default ./bnn). `flips` is the second
figure of Khalil, Gupta and Dilkina (2019): how many images each attack turns from the predicted
class to the one that comes second; a flip counts when onnxruntime confirms it. `proofs` counts what
the default engines decide. `agreement` compares integers with floating point on random inputs, and
on networks whose thresholds are moved to where sums tie with them. Answers are lines of JSON; a
second run goes on where the first one stopped. Seconds are processor seconds, so that other work on
the machine takes nothing away; solvers of programs keep their own clocks. Run with
OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from statistics import median

import click
import numpy as np
import torch

import closegap as cg
from binarized_agreement import Comparison
from binarized_figures import draw
from binarized_records import Agreement, Flip, Lines, Proof
from closegap.attacks.activation.query_attack import QueryAttack
from closegap.attacks.binarized.bit_search import BitSearch, BitSearchOptions
from closegap.attacks.binarized.iprop import IProp, IPropOptions, published
from closegap.attacks.binarized.milp_attack import SignMilpAttack
from closegap.attacks.binarized.portfolio import SignPortfolio, SignPortfolioOptions
from closegap.attacks.binarized.straight_through import StraightThroughAttack
from closegap.attacks.outcome import AttackOutcome
from closegap.core.budget import Budget
from closegap.data import load_data
from closegap.runtime.cache import binarized
from closegap.runtime.replay import Replayer
from closegap.specs.query import Query
from common import data_root, print_table

SIZES = ("2x100", "2x200", "2x300", "2x400", "2x500", "3x100", "4x100", "5x100")
RADII = (0.005, 0.01, 0.02, 0.05, 0.1)
#: Test images from here on trained no network of ours, whatever it was trained on.
HELD_OUT = 8000
#: Inputs of an answer of `agreement`.
AGREEMENT_PART = 5000
ENDLESS = 1_000_000


def stepping(share: float) -> IPropOptions:
    """IProp with a constant number of signs added in every round."""
    sizes = replace(published(), rounds=ENDLESS, patience=ENDLESS)
    return replace(sizes, share=share, program_seconds=0.0)


@dataclass(frozen=True)
class Repeated:
    """An attack again and again with other seeds, until a break or the end of the time."""

    attack: QueryAttack

    def __call__(self, query: Query, budget: Budget) -> AttackOutcome:
        """The best candidates, and the history of all runs."""
        best = self.attack.attack_query(query, budget)
        history = list(best.history)
        for number in itertools.count(1):
            if budget.expired or query.prop.broken_by(best.margin):
                break
            found = self.attack.attack_query(query, replace(budget, seed=budget.seed + number))
            history += [h for h in found.history if not history or h[1] < history[-1][1]]
            best = found if found.margin < best.margin else best
        return replace(best, history=tuple(history))


ATTACKS: Mapping[str, Callable[[], QueryAttack]] = {
    "fgsm": StraightThroughAttack,
    "iprop": lambda: IProp(IPropOptions(rounds=ENDLESS, warm=None)),
    "iprop-warm": lambda: IProp(IPropOptions(rounds=ENDLESS)),
    "milp": SignMilpAttack,
    "bit-search": lambda: BitSearch(BitSearchOptions(rounds=ENDLESS)),
    "portfolio": lambda: SignPortfolio(SignPortfolioOptions(turns=ENDLESS)),
    "iprop-published": lambda: IProp(replace(published(), rounds=ENDLESS)),
    "iprop-1": lambda: IProp(stepping(0.0)),
    "iprop-2%": lambda: IProp(stepping(0.02)),
    "iprop-5%": lambda: IProp(stepping(0.05)),
    "iprop-10%": lambda: IProp(stepping(0.1)),
}
COMPARED = ("fgsm", "iprop", "iprop-warm", "milp", "bit-search", "portfolio")


class Subject:
    """One network and test images that it did not see in training.

    Args:
        path: of the network.
        images: how many.
        first: the first of them.
    """

    def __init__(self, path: Path, images: int, first: int = HELD_OUT) -> None:
        self.network = cg.load(path)
        self.replayer = Replayer(self.network)
        data = load_data("mnist")
        part = slice(first, first + images)
        self.images, self.labels = data.images[part], data.labels[part]
        self.outputs = self.replayer.outputs_float32(self.images)

    def targeted(self, place: int, eps: float) -> Query:
        """From the predicted class to the second one."""
        second, first = np.argsort(self.outputs[place], kind="stable")[-2:]
        image = self.images[place]
        return cg.robustness(self.network, image, int(first), eps, target=int(second))

    def flips(self, query: Query, outcome: AttackOutcome) -> bool:
        """Whether one of the best candidates does it on the ONNX file."""
        found = (self.replayer.witness(query, point) for point in outcome.points[:4])
        return any(w is not None and w.breaks for w in found)


def onwards(query: Query, reach: float) -> Query:
    """The same margins, so far above 0 that no attack stops at a flip."""
    return replace(query, prop=replace(query.prop, offsets=query.prop.offsets + reach))


def reach_of(query: Query) -> float:
    """The greatest margin that any signs can have, of either direction."""
    form = binarized(query.network)
    if isinstance(form, str):
        raise click.UsageError(form)
    last, rows = form.network.last, query.prop.rows
    slope = (rows * last.factor) @ last.weight
    fixed = rows @ (last.factor * last.bias + last.offset)
    return float(np.abs(slope).sum() + np.abs(fixed).sum())


def flip(subject: Subject, asked: Flip, *, beyond: bool) -> Flip:
    """Answer one question; `asked` says which, its results are empty."""
    query = subject.targeted(asked.image, asked.eps)
    reach = reach_of(query)
    goes_on = beyond and asked.attack != "milp"
    posed, moved = (onwards(query, 2 * reach), 2 * reach) if goes_on else (query, 0.0)
    attack = ATTACKS[asked.attack]()
    run = attack.attack_query if asked.attack == "milp" else Repeated(attack)
    began = time.process_time()
    outcome = run(posed, Budget.of_seconds(asked.limit, seed=asked.seed))
    seconds = time.process_time() - began
    history = [(stamp - began, moved - margin) for stamp, margin in outcome.history]
    return replace(
        asked,
        clean=-float(query.prop.margins(subject.outputs[[asked.image]])[0]),
        objective=moved - outcome.margin,
        scale=reach,
        flipped=subject.flips(query, outcome),
        seconds=seconds,
        history=tuple(history),
    )


def subjects(nets: Path, sizes: Sequence[str], images: int) -> dict[str, Subject]:
    """The networks of these sizes."""
    paths = {size: nets / f"mnist_{size}.onnx" for size in sizes}
    absent = [size for size, path in paths.items() if not path.is_file()]
    if absent:
        raise click.UsageError(
            f"{nets} has no mnist_{absent[0]}.onnx; train it: "
            f"python examples/train_bnn.py {' '.join(absent)} --folder {nets}"
        )
    return {size: Subject(path, images) for size, path in paths.items()}


def flip_tables(found: Sequence[Flip]) -> None:
    """Flips by network and radius, an attack a column, and whether any is behind another."""
    attacks = tuple(dict.fromkeys(a.attack for a in found))
    rows = []
    for size, eps in dict.fromkeys((a.size, a.eps) for a in found):
        mine = [[a for a in found if (a.size, a.eps, a.attack) == (size, eps, n)] for n in attacks]
        flips = [str(sum(a.flipped for a in answers)) for answers in mine]
        times = [f"{median(a.seconds for a in answers):.1f}" if answers else "" for answers in mine]
        rows.append((size, f"{eps:g}", str(len(mine[0])), *flips, " / ".join(times)))
    columns = ("network", "eps", "images", *attacks, "median s, in this order")
    print_table(f"flips to the second class, {found[0].limit:g} s each", columns, rows)


@click.group(help=__doc__)
def main() -> None:
    torch.set_num_threads(1)
    # Deadlines are compared with this clock everywhere.
    time.monotonic = time.process_time


NETS = click.option("--nets", type=click.Path(path_type=Path), default=Path("bnn"),
                    show_default=True)  # fmt: skip
IMAGES = click.option("--images", default=20, show_default=True)


@main.command("flips")
@NETS
@IMAGES
@click.option("--size", "sizes", multiple=True, default=SIZES)
@click.option("--eps", "radii", multiple=True, type=float, default=RADII)
@click.option("--attack", "attacks", multiple=True, type=click.Choice(list(ATTACKS)),
              default=COMPARED)  # fmt: skip
@click.option("--seconds", default=10.0, show_default=True)
@click.option("--beyond", is_flag=True, help="Go on after a flip, for the greatest objective.")
@click.option("--lines", type=click.Path(path_type=Path), default=Path("bnn_flips.jsonl"))
@click.option("--figures", type=click.Path(path_type=Path), help="Folder for PNGs.")
def flips_command(
    nets: Path,
    images: int,
    sizes: tuple[str, ...],
    radii: tuple[float, ...],
    attacks: tuple[str, ...],
    **options: object,
) -> None:
    """Attacks side by side."""
    lines: Lines[Flip] = Lines(Path(str(options["lines"])), Flip)
    limit, beyond = float(str(options["seconds"])), bool(options["beyond"])
    found = []
    for size, subject in subjects(nets, sizes, images).items():
        for eps, image, attack in itertools.product(radii, range(images), attacks):
            asked = Flip(size, eps, image, attack, limit, beyond)
            answer = lines.get(asked)
            if answer is None:
                answer = flip(subject, asked, beyond=beyond)
                lines.add(answer)
            found.append(answer)
    flip_tables(found)
    if options["figures"]:
        for path in draw(found, Path(str(options["figures"]))):
            click.echo(f"wrote {path}", err=True)


@main.command("proofs")
@NETS
@IMAGES
@click.option("--size", "sizes", multiple=True, default=SIZES)
@click.option("--eps", "radii", multiple=True, type=float, default=RADII)
@click.option("--seconds", default=60.0, show_default=True)
@click.option("--published", is_flag=True, help="models/bnn of the data pack, on the first images.")
@click.option("--lines", type=click.Path(path_type=Path), default=Path("bnn_proofs.jsonl"))
def proofs_command(
    nets: Path,
    images: int,
    sizes: tuple[str, ...],
    radii: tuple[float, ...],
    seconds: float,
    **options: object,
) -> None:
    """What is decided exactly, against all wrong classes."""
    lines: Lines[Proof] = Lines(Path(str(options["lines"])), Proof)
    folder = data_root() / "models" / "bnn"
    chosen = (
        {name: Subject(folder / f"{name}.onnx", images, 0) for name in ("small_bnn", "mnist_bnn")}
        if options["published"]
        else subjects(nets, sizes, images)
    )
    rows = []
    for (name, subject), eps in itertools.product(chosen.items(), radii):
        found = []
        for image in range(images):
            asked = Proof(name, eps, image, seconds)
            answer = lines.get(asked)
            if answer is None:
                answer = proof(subject, asked)
                lines.add(answer)
            found.append(answer)
        counts = [sum(a.verdict == v for a in found) for v in ("verified", "falsified", "unknown")]
        times = [f"{f(a.seconds for a in found):.1f}" for f in (median, max)]
        decided = f"{counts[0] + counts[1]} of {len(found)}"
        rows.append((name, f"{eps:g}", decided, *map(str, counts), *times))
    columns = (
        "network",
        "eps",
        "decided",
        "verified",
        "falsified",
        "unknown",
        "median s",
        "most s",
    )
    print_table(f"default engines, {seconds:g} s each", columns, rows)


def proof(subject: Subject, asked: Proof) -> Proof:
    """Ask the default engines whether an image keeps its label."""
    image, label = subject.images[asked.image], int(subject.labels[asked.image])
    query = cg.robustness(subject.network, image, label, asked.eps)
    began = time.process_time()
    result = cg.solve(query, timeout=asked.limit)
    engine = result.engine if str(result.verdict) != "unknown" else result.detail
    spent = time.process_time() - began
    return replace(asked, verdict=str(result.verdict), engine=engine, seconds=spent)


@main.command("agreement")
@NETS
@click.option("--size", "sizes", multiple=True, default=SIZES)
@click.option("--only", type=click.Choice(["own", "published", "wide"]),
              help="Of --nets, of the pack's models/bnn, or traffic-sign networks.")  # fmt: skip
@click.option("--inputs", default=100_000, show_default=True)
@click.option("--wide-inputs", default=1000, show_default=True,
              help="On the traffic-sign networks of the data pack.")  # fmt: skip
@click.option("--lines", type=click.Path(path_type=Path), default=Path("bnn_agreement.jsonl"))
def agreement_command(
    nets: Path, sizes: tuple[str, ...], only: str | None, inputs: int, wide_inputs: int, lines: Path
) -> None:
    """The exact form against float64 and float32."""
    pack, answers = data_root(), Lines(lines, Agreement)
    own = [nets / f"mnist_{size}.onnx" for size in sizes]
    groups = {
        "published": [pack / "models" / "bnn" / f"{n}.onnx" for n in ("small_bnn", "mnist_bnn")],
        "own": own,
        "wide": sorted((pack / "vnncomp" / "traffic_signs_recognition" / "onnx").glob("*.gz")),
        "tied": own,
    }
    kept = [kind for kind in groups if only in (None, {"tied": "own"}.get(kind, kind))]
    rows = []
    for group, path in ((kind, path) for kind in kept for path in groups[kind]):
        count = wide_inputs if group == "wide" else inputs
        found = counted(path, group, count, answers)
        numbers = (sum(column) for column in zip(*(astuple(a)[3:] for a in found), strict=True))
        name = f"{path.name}, tied" if group == "tied" else path.name
        rows.append((name, *(f"{number:.8g}" for number in numbers)))
        click.echo(": ".join((name, " ".join(rows[-1][1:]))), err=True)
    columns = ("network", "inputs", "equal in float64", "in float32", "sums at a threshold", "s")
    print_table("outputs of the exact form", columns, rows)


def counted(path: Path, group: str, inputs: int, lines: Lines[Agreement]) -> list[Agreement]:
    """The comparison of one network, a part of the inputs at a time."""
    comparison, found = None, []
    for first in range(0, inputs, AGREEMENT_PART):
        part = min(AGREEMENT_PART, inputs - first)
        asked = Agreement(path.name, group == "tied", first, part)
        answer = lines.get(asked)
        if answer is None:
            comparison = comparison or Comparison(path, raw=group == "wide", ties=asked.tied)
            answer = comparison.count(asked)
            lines.add(answer)
        found.append(answer)
    return found


if __name__ == "__main__":
    main()
