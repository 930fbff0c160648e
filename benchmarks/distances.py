"""Least distances: brackets, beside the distances that published attacks reach.

MNIST images on an adversarially trained network. DeepFool, SparseFool, FAB, FMN, sigma-zero, EAD
and Carlini-Wagner are our own implementations; foolbox's stand beside them where it is installed.
Each has as much time as we have. FAB is also asked for a point nearer than ours. Answers go to a
file of JSON lines; a run that was cut off goes on behind the last of them. Run with
OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np
import torch

import closegap as cg
from answers import Clock, Key, answered
from closegap.attacks.activation.query_attack import run_attack
from closegap.attacks.gradient.options import AttackOptions
from closegap.attacks.minimal.attack import replayed
from closegap.attacks.minimal.registry import make_minimal
from closegap.attacks.registry import make_attack
from closegap.core.budget import Budget
from closegap.runtime.cache import compiled, replayer
from closegap.specs.distance import DistanceQuery
from closegap.specs.objectives import make_objective
from closegap.strategy.distance import minimise_distance
from common import data_root, print_table

#: 0 counts pixels.
NORMS = {"linf": math.inf, "l2": 2.0, "l1": 1.0, "l0": 0.0}
MODEL = "models/lippa/ADV_MLP_B_0.1.onnx"
#: By norm, our attacks that minimise it, as they were published.
OURS: dict[str, tuple[str, ...]] = {
    "linf": ("deepfool", "fab-nearest", "fmn"),
    "l2": ("deepfool", "fab-nearest", "fmn", "cw"),
    "l1": ("deepfool", "sparsefool", "fab-nearest", "fmn", "ead"),
    "l0": ("sparsefool", "sigma-zero", "fmn"),
}
#: Lanes of those that go for each class by itself.
LANES = {"fab-nearest": 10}
#: By norm, the foolbox attacks that minimise it.
FOOLBOX: dict[str, tuple[str, ...]] = {
    "linf": ("LinfDeepFoolAttack", "LInfFMNAttack"),
    "l2": ("L2DeepFoolAttack", "L2CarliniWagnerAttack", "L2FMNAttack"),
    "l1": ("EADAttack", "L1FMNAttack"),
    "l0": ("L0FMNAttack",),
}
#: Ten thousand steps nine times over, their default, take minutes an image.
SIZES = {"steps": 1000, "binary_search_steps": 5}
SIZED = ("L2CarliniWagnerAttack", "EADAttack")
EVERYTHING, BELOW = "closegap", "fab"
#: Ours counts as farther where a rival is within this share of its distance.
NEARER = 0.9999


@dataclass(frozen=True)
class Task:
    """One method on one image.

    Attributes:
        limit: seconds.
        radius: within which; infinity where the method minimises.
    """

    norm: str
    method: str
    index: int
    limit: float
    radius: float = math.inf

    @property
    def key(self) -> Key:
        """All of it."""
        return (self.norm, self.method, self.index, self.limit, self.radius)


@dataclass(frozen=True)
class Answer:
    """What it came to.

    Attributes:
        norm, method, index, limit, radius: what was asked.
        lower: proved; zero where the method proves nothing.
        upper: attained; infinity where nothing was found.
        closed: whether they meet.
        seconds, processor: that it took.
    """

    norm: str
    method: str
    index: int
    limit: float
    radius: float
    lower: float
    upper: float
    closed: bool
    seconds: float
    processor: float

    @property
    def key(self) -> Key:
        """The task's."""
        return (self.norm, self.method, self.index, self.limit, self.radius)

    def __str__(self) -> str:
        """A line for people who wait."""
        bracket = f"[{self.lower:.5f}, {self.upper:.5f}]"
        return f"{self.norm} {self.index} {self.method}: {bracket} processor {self.processor:.1f} s"


def answer(task: Task) -> Answer:
    """Run one method on one image."""
    network = cg.load(data_root() / MODEL)
    archive = np.load(data_root() / "mnist/t10k.npz")
    image = (archive["images"][task.index].reshape(network.input_shape) / 255.0).astype("f4")
    label = int(archive["labels"][task.index])
    query = DistanceQuery(network, image, label, make_objective(task.norm, image))
    clock = Clock()
    lower, upper, closed = reached(task, query)
    seconds, processor = clock.read()
    return Answer(
        **asdict(task),
        lower=lower,
        upper=upper,
        closed=closed,
        seconds=seconds,
        processor=processor,
    )


def reached(task: Task, query: DistanceQuery) -> tuple[float, float, bool]:
    """Lower end, upper end, and whether they meet."""
    budget = Budget.of_seconds(task.limit)
    if task.method == EVERYTHING:
        result = minimise_distance(query, timeout=task.limit)
        return result.lower, result.upper, result.closed
    if task.method == BELOW:
        return 0.0, within(query, task.radius, budget), False
    if task.method in FOOLBOX[task.norm]:
        return 0.0, by_foolbox(task.method, query), False
    sizes = AttackOptions(restarts=LANES.get(task.method))
    attack = replace(make_minimal(task.method, sizes, NORMS[task.norm]), polish=None)
    return 0.0, attack.run(query, budget, replayed(query)).distance, False


def within(query: DistanceQuery, radius: float, budget: Budget) -> float:
    """The radius, if FAB breaks that ball; infinity if it does not."""
    if not 0 < radius < math.inf:
        return math.inf
    asked = query.within(radius)
    network = compiled(query.network, torch.float32)
    (outcome,) = run_attack(network, [asked], make_attack("fab-t"), budget)
    seen = (replayer(query.network).witness(asked, point) for point in outcome.points[:4])
    return radius if any(w is not None and w.breaks for w in seen) else math.inf


def by_foolbox(name: str, query: DistanceQuery) -> float:
    """The distance one foolbox attack reaches; infinity where it fails."""
    import foolbox

    network = query.network
    wrapped = _Module(compiled(network, torch.float32))
    model = foolbox.PyTorchModel(wrapped, bounds=(0, 1), device="cpu")
    attack: Callable[..., Any] = getattr(foolbox.attacks, name)(**(SIZES if name in SIZED else {}))
    image = torch.as_tensor(query.image).reshape(1, *network.input_shape)
    _, found, success = attack(model, image, torch.tensor([query.label]), epsilons=None)
    return query.distance(found[0].numpy()) if bool(success[0]) else math.inf


class _Module(torch.nn.Module):
    """The network as foolbox wants it."""

    def __init__(self, network: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self._network = network
        self.eval()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Outputs `[B, C]`."""
        return self._network(inputs)


@dataclass(frozen=True)
class Asked:
    """One run of the command."""

    limit: int
    seconds: float
    workers: int
    lines: Path

    def tell(self, norm: str, method: str, radii: Sequence[float] | None = None) -> list[Answer]:
        """One method on every image."""
        every = radii or [math.inf] * self.limit
        tasks = [Task(norm, method, i, self.seconds, radius) for i, radius in enumerate(every)]
        return answered(
            tasks,
            answer,
            Answer,
            self.lines,
            workers=self.workers,
            say=lambda answer: click.echo(answer, err=True),
        )


def row(asked: Asked, norm: str) -> list[str]:
    ours = asked.tell(norm, EVERYTHING)
    beside = [_beside(name, ours, asked.tell(norm, name)) for name in rivals(norm)]
    if norm != "l0":
        nearer = asked.tell(norm, BELOW, [NEARER * a.upper for a in ours])
        farther = sum(math.isfinite(a.upper) for a in nearer)
        beside.append(f"{BELOW} within ours: ours farther {farther} of {len(ours)}")
    return [
        norm,
        f"{sum(a.closed for a in ours)} of {len(ours)}",
        f"{median(a.upper for a in ours):.4f}",
        f"{median(a.lower / a.upper for a in ours if a.upper > 0):.3f}",
        f"{median(a.processor for a in ours):.1f}",
        f"{sum(a.processor for a in ours):.0f}",
        "\n".join(beside),
    ]


def rivals(norm: str) -> tuple[str, ...]:
    return OURS[norm] + (FOOLBOX[norm] if find_spec("foolbox") else ())


def _beside(name: str, ours: Sequence[Answer], reached: Sequence[Answer]) -> str:
    """How much farther a rival's points lie, and how often ours does, which is to be never."""
    pairs = [(a.upper, b.upper) for a, b in zip(reached, ours, strict=True) if b.upper > 0]
    ratios = [theirs / own for theirs, own in pairs if math.isfinite(theirs)]
    farther = sum(theirs < NEARER * own for theirs, own in pairs)
    middle = f"x{median(ratios):.3f}" if ratios else "-"
    return f"{name}: {middle}, found {len(ratios)}, ours farther {farther} of {len(pairs)}"


@click.command(help=__doc__)
@click.option("--limit", default=50, show_default=True, help="the first so many images")
@click.option("--seconds", default=60.0, show_default=True, help="for one image")
@click.option("--norm", type=click.Choice(list(NORMS)), help="only this one")
@click.option("--workers", default=1, show_default=True, help="processes")
@click.option("--lines", type=click.Path(path_type=Path), default=Path("distances.jsonl"))
def main(limit: int, seconds: float, norm: str | None, workers: int, lines: Path) -> None:
    torch.set_num_threads(1)
    asked = Asked(limit, seconds, workers, lines)
    chosen = [norm] if norm else list(NORMS)
    most = sum(limit * (2 + len(rivals(name))) for name in chosen) * seconds / workers / 60
    click.echo(f"at most {most:.0f} minutes; answers in {lines}", err=True)
    title = f"least distances, ADV_MLP_B_0.1, first {limit} images, {seconds:g} s each"
    columns = ("norm", "closed", "median upper", "lower/upper", "median cpu s", "all cpu s",
               "rivals' distance")  # fmt: skip
    print_table(title, columns, [row(asked, name) for name in chosen])


if __name__ == "__main__":
    main()
