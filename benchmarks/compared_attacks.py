"""Attacks side by side: on images that strong attacks miss, and on the first images of MNIST.

`hard` is the second table of BaB-Attack (Zhang et al., 2022), every attack with the settings given
there (appendix A.3), and attacks of our own beside them. `robust` counts the images that each
attack leaves standing. A break counts when onnxruntime confirms it, and every answer is a line of
JSON in --results: a second run goes on where the first one stopped. `reference` sets our attacks
beside those of pyautoattack. Run with OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from answers import Clock, Key, answered, known, write
from closegap.attacks.activation.query_attack import Attack, run_attack
from closegap.attacks.gradient.autoattack import autoattack, autoattack_plus
from closegap.attacks.gradient.descent import Descent
from closegap.attacks.gradient.distributional import DistributionalDescent
from closegap.attacks.gradient.diverse_inputs import DiverseDescent
from closegap.attacks.gradient.fab import Boundary
from closegap.attacks.gradient.losses import CrossEntropyLoss
from closegap.attacks.gradient.method import EVERY_CLAUSE
from closegap.attacks.gradient.options import AttackOptions
from closegap.attacks.gradient.square import SquareSearch
from closegap.attacks.gradient.starts import CenterStart
from closegap.attacks.gradient.steppers import SteepestStepper
from closegap.attacks.registry import make_attack
from closegap.core.budget import Budget
from common import print_table
from gradient_attacks import Subject
from image_attacks import EPS, MODELS, Answer, Task, attack_image, hard_images


def momentum(name: str, steps: int, pixels: float, *, restarts: int = 1) -> Descent:
    """Equal sign steps of so many pixel units, with momentum 0.9, on the cross-entropy."""
    return Descent(
        name,
        start=CenterStart(),
        loss=CrossEntropyLoss(),
        stepper=SteepestStepper(momentum=0.9),
        steps=steps,
        restarts=restarts,
        step_size=pixels / EPS,
        last_step=pixels / EPS,
    )


def daa() -> Attack:
    """A step of 0.01 and a balance of 0.05."""
    size = 0.01 / EPS
    descent = Descent(
        "daa", loss=CrossEntropyLoss(), steps=100, restarts=10, step_size=size, last_step=size
    )
    return DistributionalDescent(descent, balance=0.05)


#: As in the paper, but for AutoAttack without `plus` and what stands below it.
ATTACKS: dict[str, Callable[[], Attack]] = {
    "fab": lambda: Boundary("fab", 100, 50, targets=EVERY_CLAUSE, together=True),
    "square": lambda: SquareSearch(steps=7000, restarts=20, share=0.6),
    "di-fgsm": lambda: DiverseDescent(momentum("di-fgsm", 50, 6 / 255), probability=0.5),
    "mi-fgsm": lambda: momentum("mi-fgsm", 20, 2 / 255),
    "daa": daa,
    "autoattack-plus": lambda: autoattack_plus(AttackOptions()),
    "autoattack": lambda: autoattack(AttackOptions()),
    "mt-pgd-hard": lambda: make_attack("mt-pgd-hard"),
    "ods-pgd-hard": lambda: make_attack("ods-pgd-hard"),
    "hop-pgd": lambda: make_attack("hop-pgd"),
    "lippa": lambda: make_attack("lippa"),
    "region-walk": lambda: make_attack("region-walk"),
    "bab-attack": lambda: make_attack("bab-attack"),
}

#: The table `robust`, with the attacks' own defaults.
ROBUST = (
    "pgd",
    "mi-fgsm",
    "di-fgsm",
    "daa",
    "apgd-ce",
    "apgd-dlr",
    "apgd-t",
    "fab",
    "fab-t",
    "square",
    "autoattack",
    "autoattack-plus",
)


#: Attacks that pyautoattack has too, and under which version of it.
SHARED = dict.fromkeys(("apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "square"), "custom") | {
    "autoattack": "standard",
    "autoattack-plus": "plus",
}


@dataclass(frozen=True)
class Standing:
    """What one attack came to on one of many images side by side; seconds are an equal share."""

    table: str
    model: str
    image: int
    attack: str
    broken: bool
    margin: float
    seconds: float
    cpu: float
    limit: float
    seed: int

    @property
    def key(self) -> Key:
        """What was asked."""
        return (self.table, self.model, self.image, self.attack, self.limit, self.seed)


@dataclass(frozen=True)
class Asked:
    """One run of the command."""

    models: tuple[str, ...]
    attacks: tuple[str, ...]
    limit: float
    images: int
    seed: int
    results: Path
    workers: int


def attack(task: Task) -> Answer:
    """One attack on one image."""
    return attack_image(task, ATTACKS[task.attack]())


def hard(asked: Asked) -> None:
    """Every attack on every image."""
    for model in asked.models:
        tasks = [
            Task(model, name, image, asked.limit, asked.seed)
            for image in hard_images(model, "unsafe")
            for name in asked.attacks
        ]
        most = len(tasks) * asked.limit / asked.workers / 60
        click.echo(f"at most {most:.0f} minutes; answers in {asked.results}", err=True)
        found = answered(
            tasks,
            attack,
            Answer,
            asked.results,
            workers=asked.workers,
            say=lambda answer: click.echo(answer, err=True),
        )
        print_table(
            f"{MODELS[model]}, {model}_mip_unsafe, eps {EPS}, at most {asked.limit:g} s each",
            ("attack", "broken", "mean s", "mean cpu s", "mean margin left", "images broken"),
            (cells(name, [a for a in found if a.attack == name]) for name in asked.attacks),
        )


def cells(name: str, answers: Sequence[Answer]) -> Iterator[str]:
    """A row: how many were broken, in what time, and how far the others are from it."""
    broken = [a for a in answers if a.broken]
    left = [a.margin for a in answers if not a.broken]
    yield name
    yield f"{len(broken)} of {len(answers)}"
    yield f"{np.mean([a.seconds for a in answers]):.2f}"
    yield f"{np.mean([a.processor for a in answers]):.2f}"
    yield f"{np.mean(left):.4f}" if left else "-"
    yield " ".join(str(a.index) for a in broken)


def robust(asked: Asked) -> None:
    """All images side by side; the ensembles must leave no more than PGD does."""
    for model in asked.models:
        answers = {name: side_by_side(asked, model, name) for name in ROBUST}
        standing = {k: {a.image for a in found if not a.broken} for k, found in answers.items()}
        reference = standing["pgd"]
        rows = [
            (
                name,
                f"{len(left)} of {len(answers[name])}",
                str(len(reference - left)),
                str(len(left - reference)),
                f"{sum(a.cpu for a in answers[name]):.2f}",
            )
            for name, left in standing.items()
        ]
        columns = ("attack", "robust", "broken, not by PGD", "by PGD only", "cpu s")
        print_table(f"{MODELS[model]}, first {asked.images} images, eps {EPS}", columns, rows)


def side_by_side(asked: Asked, model: str, name: str) -> list[Standing]:
    """One attack on the first images of a model, read or run; the misclassified are left out."""
    table = f"robust {asked.images}"
    wanted = (table, model, name, asked.limit, asked.seed)
    found = [
        a
        for a in known(asked.results, Standing).values()
        if (a.table, a.model, a.attack, a.limit, a.seed) == wanted
    ]
    if not found:
        found = run_side_by_side(asked, table, model, name)
        write(asked.results, found)
    return found


def run_side_by_side(asked: Asked, table: str, model: str, name: str) -> list[Standing]:
    """All images in one batch."""
    subject = Subject.of_images(MODELS[model], list(range(asked.images)), EPS)
    count = len(subject.asked)
    budget = Budget.of_seconds(asked.limit * count, seed=asked.seed)
    clock = Clock()
    outcomes = run_attack(subject.torch_network, subject.asked, make_attack(name), budget)
    seconds, cpu = (spent / count for spent in clock.read())
    return [
        Standing(
            table=table,
            model=model,
            image=image,
            attack=name,
            broken=subject.breaks(query, outcome),
            margin=outcome.margin,
            seconds=seconds,
            cpu=cpu,
            limit=asked.limit,
            seed=asked.seed,
        )
        for image, query, outcome in zip(subject.indices, subject.asked, outcomes, strict=True)
    ]


def reference(asked: Asked) -> None:
    """Our attacks beside those of pyautoattack, where it is installed, with the same restarts."""
    if find_spec("pyautoattack") is None:
        raise click.UsageError("this table needs pyautoattack: pip install --no-deps pyautoattack")
    names = [name for name in SHARED if not asked.attacks or name in asked.attacks]
    for model in asked.models:
        subject = Subject.of_images(MODELS[model], list(range(asked.images)), EPS)
        rows = []
        for name in names:
            began = time.process_time()
            method, budget = make_attack(name), Budget(seed=asked.seed)
            outcomes = run_attack(subject.torch_network, subject.asked, method, budget)
            found = zip(subject.asked, outcomes, strict=True)
            ours = [query.prop.broken_by(outcome.margin) for query, outcome in found]
            between = time.process_time()
            theirs = by_pyautoattack(subject, name, asked.seed)
            spent = (between - began, time.process_time() - between)
            both = int(np.sum(np.logical_and(ours, theirs)))
            counts = (sum(ours), sum(theirs), both)
            rows.append((name, *map(str, counts), *(f"{s:.2f}" for s in spent)))
        columns = ("attack", "broken, ours", "theirs", "both", "cpu s, ours", "theirs")
        print_table(f"{MODELS[model]}, first {asked.images} images, eps {EPS}", columns, rows)


def by_pyautoattack(subject: Subject, name: str, seed: int) -> list[bool]:
    """Which queries that package's attack of this name breaks, with one restart or its own five."""
    import pyautoattack.autoattack as package

    class Module(torch.nn.Module):
        def forward(self, points: torch.Tensor) -> torch.Tensor:
            return subject.torch_network(points)

    version = SHARED[name]
    attack = package.AutoAttack(
        Module(),
        eps=EPS,
        version=version,
        attacks=[name] if version == "custom" else None,
        seed=seed,
    )
    if version == "custom":
        attack.apgd.n_restarts = attack.fab.n_restarts = 1
    centers = [query.center for query in subject.asked]
    images = torch.as_tensor(np.stack([c for c in centers if c is not None]))
    labels = torch.tensor([query.prop.label for query in subject.asked])
    found = attack.run_standard_evaluation(images, labels)
    points = found[0] if isinstance(found, tuple) else found
    with torch.no_grad():
        answers = Module()(points).argmax(dim=1)
    return [bool(wrong) for wrong in answers != labels]


TABLES = {"hard": hard, "robust": robust, "reference": reference}


@click.command(help=__doc__)
@click.argument("table", type=click.Choice(list(TABLES)))
@click.option("--model", "models", multiple=True, type=click.Choice(list(MODELS)), default=("A",))
@click.option("--attack", "attacks", multiple=True, type=click.Choice(list({**ATTACKS, **SHARED})),
              help="Only these (all).")  # fmt: skip
@click.option("--seconds", default=60.0, show_default=True, help="for an attack on an image")
@click.option("--images", default=100, show_default=True, help="of the table `robust`")
@click.option("--seed", default=0, show_default=True)
@click.option("--workers", default=1, show_default=True, help="processes of the table `hard`")
@click.option("--results", type=click.Path(path_type=Path), default=Path("compared.jsonl"),
              show_default=True, help="Answers, a line each.")  # fmt: skip
def main(table: str, models: tuple[str, ...], attacks: tuple[str, ...], **options: Any) -> None:
    torch.set_num_threads(1)
    chosen = tuple(name for name in ATTACKS if not attacks or name in attacks)
    TABLES[table](Asked(models, chosen, limit=options.pop("seconds"), **options))


if __name__ == "__main__":
    main()
