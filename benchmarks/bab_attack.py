"""What BaB-Attack breaks of images that gradient attacks miss. Run with OMP_NUM_THREADS=1.

`hard`: published hard instances, one line each, then a table. `ablation`: the same with parts left
out. `margins`: the least margins of every variant, as a PNG. Answers go to a file of JSON lines; a
run that was cut off goes on behind the last of them. A break counts when onnxruntime confirms it.
"""

from __future__ import annotations

import itertools
import json
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

import click
import torch

from closegap.attacks.activation.bab_attack.attack import BabAttack, BabAttackOptions
from closegap.attacks.activation.bab_attack.bottom_up import BottomUp
from closegap.attacks.activation.bab_attack.dive import Dive
from closegap.attacks.activation.bab_attack.subtree import SubTree
from closegap.attacks.activation.bab_attack.tree import TreeOptions
from closegap.attacks.activation.query_attack import QueryAttack
from closegap.attacks.activation.region_walk import RegionWalkAttack, RegionWalkOptions
from closegap.core.budget import Budget
from common import data_root, print_table
from gradient_attacks import HARD, Subject

#: Seconds that the goals are stated for.
SECONDS = {"A": 90.0, "B": 300.0}
LISTS = dict(zip(SECONDS, HARD, strict=True))
WHOLE = BabAttackOptions()
TREE = TreeOptions()
NO_TREE = replace(WHOLE, beam=None)


def only(**parts: object) -> BabAttackOptions:
    """Parts of the attack, without hops that would hide what they do."""
    return replace(WHOLE, **{"hops": 0, "bottom_up": None, "dive": None, "beam": None, **parts})  # type: ignore[arg-type]


VARIANTS: Mapping[str, Callable[[], QueryAttack]] = {
    "all": lambda: BabAttack(WHOLE),
    "random beam": lambda: BabAttack(only(beam=replace(TREE, guided=False))),
    "guided beam": lambda: BabAttack(only(beam=TREE)),
    "beam + dive": lambda: BabAttack(only(beam=TREE, dive=Dive())),
    "beam + bottom-up": lambda: BabAttack(only(beam=TREE, bottom_up=BottomUp())),
    "bottom-up": lambda: BabAttack(only(bottom_up=BottomUp())),
    "hops": lambda: BabAttack(replace(only(), hops=1)),
    "region walk": lambda: RegionWalkAttack(RegionWalkOptions(rounds=1000)),
    "own sub-solver": lambda: BabAttack(
        replace(WHOLE, bottom_up=BottomUp(program=SubTree()), dive=Dive(program=SubTree()))
    ),
}


@dataclass(frozen=True)
class Answer:
    """One image, one variant."""

    model: str
    variant: str
    index: int
    limit: float
    broken: bool
    margin: float
    seconds: float
    processor: float


@dataclass(frozen=True)
class Asked:
    """What is run.

    Attributes:
        model: A or B.
        indices: of images.
        limit: seconds each.
        seed: of everything.
        threads: searches at a time.
    """

    model: str
    indices: tuple[int, ...]
    limit: float
    seed: int
    threads: int


def answers(asked: Asked, variants: Sequence[str], path: Path) -> list[Answer]:
    """Every variant on every image; what is in the file already is not run again."""
    known = {}
    if path.exists():
        rows = [Answer(**json.loads(line)) for line in path.read_text().splitlines()]
        known = {(a.model, a.variant, a.index, a.limit): a for a in rows}
    found = []
    for variant, index in itertools.product(variants, asked.indices):
        answer = known.get((asked.model, variant, index, asked.limit))
        if answer is None:
            answer = attack(asked, variant, index)
            with path.open("a") as file:
                file.write(json.dumps(asdict(answer)) + "\n")
        found.append(answer)
        say(answer)
    return found


def say(answer: Answer) -> None:
    click.echo(
        f"{answer.model} {answer.index} {answer.variant}: {'broken' if answer.broken else 'open'} "
        f"{answer.margin:.5f} {answer.seconds:.1f} s, processor {answer.processor:.1f} s",
        err=True,
    )


def attack(asked: Asked, variant: str, index: int) -> Answer:
    subject = Subject.of_images(LISTS[asked.model][0], [index], 0.3)
    (query,) = subject.asked
    wall, processor = time.perf_counter(), processor_seconds()
    budget = Budget.of_seconds(asked.limit, seed=asked.seed, threads=asked.threads)
    outcome = VARIANTS[variant]().attack_query(query, budget)
    return Answer(
        asked.model,
        variant,
        index,
        asked.limit,
        subject.breaks(query, outcome),
        outcome.margin,
        time.perf_counter() - wall,
        processor_seconds() - processor,
    )


def processor_seconds() -> float:
    """Of this process and of the solvers' processes, as far as they have ended or are known."""
    children = [
        int(child)
        for task in Path("/proc/self/task").iterdir()
        for child in (task / "children").read_text().split()
    ]
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime + sum(map(_of_process, children))


def _of_process(number: int) -> float:
    try:
        fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / 100.0


def table(found: Sequence[Answer]) -> None:
    rows = []
    for variant in dict.fromkeys(answer.variant for answer in found):
        mine = [answer for answer in found if answer.variant == variant]
        broken = [answer for answer in mine if answer.broken]
        times = [f"{median(getattr(a, key) for a in broken):.1f}" if broken else "-" for key in
                 ("seconds", "processor")]  # fmt: skip
        slowest = f"{max(a.seconds for a in broken):.1f}" if broken else "-"
        left = [a.margin for a in mine if not a.broken]
        mean = f"{sum(left) / len(left):.4f}" if left else "-"
        rows.append([variant, f"{len(broken)} of {len(mine)}", *times, slowest, mean])
    columns = ("variant", "broken", "median s", "median cpu s", "most s", "mean margin left")
    print_table(f"{found[0].model}, eps 0.3, {found[0].limit:g} s each", columns, rows)


def draw(found: Sequence[Answer], path: Path) -> None:
    """Least margins in ascending order, a line a variant; below zero is broken."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for variant in dict.fromkeys(answer.variant for answer in found):
        margins = sorted(answer.margin for answer in found if answer.variant == variant)
        axes.plot(range(1, len(margins) + 1), margins, marker="o", markersize=3, label=variant)
    axes.axhline(0.0, color="black", linewidth=0.8)
    axes.set_xlabel("images, in ascending order of margin")
    axes.set_ylabel("least margin found")
    axes.set_title(f"{found[0].model}, {found[0].limit:g} s each")
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=150)


@click.command(help=__doc__)
@click.argument("what", type=click.Choice(["hard", "ablation", "margins"]))
@click.option("--model", type=click.Choice(list(SECONDS)), default="A", show_default=True)
@click.option("--indices", help="images, separated by commas; the published list by default")
@click.option("--limit", type=float, help="seconds for one image; 90 for A, 300 for B by default")
@click.option("--variants", help="of the ablation, separated by commas")
@click.option("--threads", default=1, show_default=True, help="searches at a time")
@click.option("--seed", default=0, show_default=True)
@click.option("--lines", type=click.Path(path_type=Path), default=Path("bab_attack.jsonl"))
@click.option("--picture", type=click.Path(path_type=Path), default=Path("bab_attack.png"))
def main(
    what: str, model: str, indices: str | None, limit: float | None, **options: object
) -> None:
    torch.set_num_threads(1)
    listed = (data_root() / "hard_instances" / LISTS[model][1]).read_text().split()
    chosen = tuple(map(int, indices.split(",") if indices else listed))
    seconds = SECONDS[model] if limit is None else limit
    seed, threads = int(str(options["seed"])), int(str(options["threads"]))
    asked = Asked(model, chosen, seconds, seed, threads)
    named = options["variants"]
    variants = str(named).split(",") if named else list(VARIANTS)
    chosen_variants = ["all"] if what == "hard" else variants
    unknown = [name for name in chosen_variants if name not in VARIANTS]
    if unknown:
        raise click.UsageError(f"--variants {unknown[0]}: known are {', '.join(VARIANTS)}")
    most = len(chosen) * len(chosen_variants) * seconds / 60
    click.echo(f"at most {most:.0f} minutes; answers in {options['lines']}", err=True)
    found = answers(asked, chosen_variants, Path(str(options["lines"])))
    table(found)
    if what == "margins":
        draw(found, Path(str(options["picture"])))


if __name__ == "__main__":
    main()
