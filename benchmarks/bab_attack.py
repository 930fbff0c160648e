"""What BaB-Attack breaks of images that gradient attacks miss. Run with OMP_NUM_THREADS=1.

`hard`: published hard instances, one line each, then a table. `ablation`: the same with parts left
out (BaB-Attack's table 3). `margins`: least margins on images that nobody broke, beside those of
gradient attacks, as a PNG (figure 4). Answers go to a file of JSON lines; a run that was cut off
goes on behind the last of them. A break counts when onnxruntime confirms it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

import click
import torch

from answers import answered
from closegap.attacks.activation.bab_attack.attack import BabAttack, BabAttackOptions
from closegap.attacks.activation.bab_attack.bottom_up import BottomUp
from closegap.attacks.activation.bab_attack.dive import Dive
from closegap.attacks.activation.bab_attack.subtree import SubTree
from closegap.attacks.activation.bab_attack.tree import TreeOptions
from closegap.attacks.activation.query_attack import Attack
from closegap.attacks.activation.region_walk import RegionWalkAttack, RegionWalkOptions
from common import print_table
from compared_attacks import ATTACKS
from image_attacks import EPS, MODELS, Answer, Task, attack_image, hard_images

#: For one image: what the goals are stated for; what shows an order; what brings margins to rest.
SECONDS = {
    "hard": {"A": 90.0, "B": 300.0},
    "ablation": {"A": 10.0, "B": 60.0},
    "margins": {"A": 30.0, "B": 60.0},
}
WHOLE = BabAttackOptions()
TREE = TreeOptions()


#: One output-diversified descent fills the pool, as in the paper.
NO_HOPS = replace(WHOLE.hopping, hops=0)


def only(**parts: object) -> BabAttackOptions:
    """Parts of the attack, without the hops and walks before them that would hide what they do."""
    none = {
        "hopping": NO_HOPS,
        "hops": 0,
        "walks": 0,
        "bottom_up": None,
        "dive": None,
        "beam": None,
    }
    return replace(WHOLE, **{**none, **parts})  # type: ignore[arg-type]


VARIANTS: Mapping[str, Callable[[], Attack]] = {
    "all": lambda: BabAttack(WHOLE),
    "random beam": lambda: BabAttack(only(beam=replace(TREE, guided=False))),
    "guided beam": lambda: BabAttack(only(beam=TREE)),
    "beam + dive": lambda: BabAttack(only(beam=TREE, dive=Dive())),
    "beam + bottom-up": lambda: BabAttack(only(beam=TREE, bottom_up=BottomUp())),
    "bottom-up": lambda: BabAttack(only(bottom_up=BottomUp())),
    "hops": lambda: BabAttack(only(hopping=WHOLE.hopping, hops=1)),
    "region walk": lambda: RegionWalkAttack(RegionWalkOptions(rounds=1000)),
    "own sub-solver": lambda: BabAttack(
        replace(WHOLE, bottom_up=BottomUp(program=SubTree()), dive=Dive(program=SubTree()))
    ),
}


#: Whose margins stand beside ours.
RIVALS = ("ods-pgd-hard", "mt-pgd-hard", "autoattack")
#: What is run unless `--variants` says otherwise.
CHOSEN = {"hard": ("all",), "ablation": tuple(VARIANTS), "margins": ("all", *RIVALS)}


def attack(task: Task) -> Answer:
    """One variant, or rival, on one image."""
    made = VARIANTS[task.attack] if task.attack in VARIANTS else ATTACKS[task.attack]
    return attack_image(task, made())


def table(found: Sequence[Answer]) -> None:
    rows = []
    ours = {a.index: a.margin for a in found if a.attack == found[0].attack}
    for variant in dict.fromkeys(answer.attack for answer in found):
        mine = [answer for answer in found if answer.attack == variant]
        broken = [answer for answer in mine if answer.broken]
        times = [f"{median(getattr(a, key) for a in broken):.1f}" if broken else "-" for key in
                 ("seconds", "processor")]  # fmt: skip
        slowest = f"{max(a.seconds for a in broken):.1f}" if broken else "-"
        left = [a.margin for a in mine if not a.broken]
        mean = f"{sum(left) / len(left):.4f}" if left else "-"
        above = sum(a.margin > ours[a.index] for a in mine)
        all_ = f"{sum(a.processor for a in mine):.0f}"
        rows.append(
            [variant, f"{len(broken)} of {len(mine)}", *times, slowest, all_, mean, f"{above}"]
        )
    columns = ("variant", "broken", "median s", "median cpu s", "most s", "all cpu s",
               "mean margin left", f"above {found[0].attack}")  # fmt: skip
    print_table(f"{found[0].model}, eps {EPS}, {found[0].limit:g} s each", columns, rows)


def draw(found: Sequence[Answer], path: Path) -> None:
    """Least margins of every attack, images in ascending order of the first attack's."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    first = [answer for answer in found if answer.attack == found[0].attack]
    order = [answer.index for answer in sorted(first, key=lambda answer: answer.margin)]
    for name in dict.fromkeys(answer.attack for answer in found):
        margins = {answer.index: answer.margin for answer in found if answer.attack == name}
        line = "-" if name == found[0].attack else "none"
        axes.plot([margins[i] for i in order], linestyle=line, marker="o", markersize=4, label=name)
    axes.axhline(0.0, color="black", linewidth=0.8)
    axes.set_xticks(range(len(order)), [str(index) for index in order], rotation=90)
    axes.set_xlabel("image")
    axes.set_ylabel("least margin found")
    axes.set_title(f"{found[0].model}, eps {EPS}, {found[0].limit:g} s each")
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=150)


@click.command(help=__doc__)
@click.argument("what", type=click.Choice(list(SECONDS)))
@click.option("--model", type=click.Choice(list(MODELS)), default="A", show_default=True)
@click.option("--indices", help="images, separated by commas; a published list by default")
@click.option("--list", "kind", type=click.Choice(["unsafe", "unknown"]),
              help="which list; unknown for margins, else unsafe")  # fmt: skip
@click.option("--first", type=click.IntRange(1), help="only so many of the images")
@click.option("--limit", type=float, help="seconds for one image; by default what the task needs")
@click.option("--variants", help="separated by commas; also attacks of compared_attacks.py")
@click.option("--threads", default=1, show_default=True, help="searches at a time")
@click.option("--workers", default=1, show_default=True, help="processes")
@click.option("--seed", default=0, show_default=True)
@click.option("--lines", type=click.Path(path_type=Path), default=Path("bab_attack.jsonl"))
@click.option("--picture", type=click.Path(path_type=Path), default=Path("bab_attack.png"))
def main(
    what: str,
    model: str,
    indices: str | None,
    limit: float | None,
    workers: int,
    lines: Path,
    **options: object,
) -> None:
    torch.set_num_threads(1)
    kind = str(options["kind"] or ("unknown" if what == "margins" else "unsafe"))
    chosen = tuple(map(int, indices.split(","))) if indices else hard_images(model, kind)
    first = options["first"]
    chosen = chosen if first is None else chosen[: int(str(first))]
    seconds = SECONDS[what][model] if limit is None else limit
    named = options["variants"]
    variants = tuple(str(named).split(",")) if named else CHOSEN[what]
    unknown = [name for name in variants if name not in {**VARIANTS, **ATTACKS}]
    if unknown:
        raise click.UsageError(f"--variants {unknown[0]}: known are {', '.join(VARIANTS)}")
    seed, threads = int(str(options["seed"])), int(str(options["threads"]))
    tasks = [
        Task(model, name, index, seconds, seed, threads) for name in variants for index in chosen
    ]
    click.echo(
        f"at most {len(tasks) * seconds / workers / 60:.0f} minutes; answers in {lines}", err=True
    )
    found = answered(
        tasks, attack, Answer, lines, workers=workers, say=lambda a: click.echo(a, err=True)
    )
    table(found)
    if what == "margins":
        draw(found, Path(str(options["picture"])))


if __name__ == "__main__":
    main()
