"""One attack on one MNIST image at the radius of the published hard instances."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from answers import Clock, Key
from closegap.attacks.activation.query_attack import Attack, run_attack
from closegap.core.budget import Budget
from common import data_root
from gradient_attacks import Subject

EPS = 0.3
MODELS = {
    "A": "bab_attack/A_mnist_madry_tiny.onnx",
    "B": "bab_attack/B_mnist_cnn_a_adv.onnx",
}


@dataclass(frozen=True)
class Task:
    """What is asked.

    Attributes:
        model: A or B.
        attack: its name in a table of the command.
        index: of the image.
        limit: seconds.
        seed: of everything.
        threads: searches at a time.
    """

    model: str
    attack: str
    index: int
    limit: float
    seed: int = 0
    threads: int = 1

    @property
    def key(self) -> Key:
        """Everything."""
        return (self.model, self.attack, self.index, self.limit, self.seed, self.threads)


@dataclass(frozen=True)
class Answer:
    """What it came to; broken where onnxruntime says so.

    Attributes:
        model, attack, index, limit, seed, threads: what was asked.
        margin: the least found.
        seconds, processor: that it took.
    """

    model: str
    attack: str
    index: int
    limit: float
    seed: int
    threads: int
    broken: bool
    margin: float
    seconds: float
    processor: float

    @property
    def key(self) -> Key:
        """The task's."""
        return (self.model, self.attack, self.index, self.limit, self.seed, self.threads)

    def __str__(self) -> str:
        """A line for people who wait."""
        verdict = "broken" if self.broken else "open"
        spent = f"{self.seconds:.1f} s, processor {self.processor:.1f} s"
        return f"{self.model} {self.index} {self.attack}: {verdict} {self.margin:.5f} {spent}"


def attack_image(task: Task, attack: Attack) -> Answer:
    """Run the attack that the task names."""
    subject = Subject.of_images(MODELS[task.model], [task.index], EPS)
    budget = Budget.of_seconds(task.limit, seed=task.seed, threads=task.threads)
    clock = Clock()
    (outcome,) = run_attack(subject.torch_network, subject.asked, attack, budget)
    seconds, processor = clock.read()
    return Answer(
        **asdict(task),
        broken=subject.breaks(subject.asked[0], outcome),
        margin=outcome.margin,
        seconds=seconds,
        processor=processor,
    )


def hard_images(model: str, kind: str) -> tuple[int, ...]:
    """Published indices: `unsafe` have a known counterexample, `unknown` have none."""
    path = data_root() / "hard_instances" / f"{model}_mip_{kind}.txt"
    return tuple(map(int, path.read_text().split()))
