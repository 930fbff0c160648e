"""What `binarized.py` asks and answers, a line of JSON each."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Generic, TypeVar

__all__ = ["Agreement", "Flip", "Lines", "Proof"]


@dataclass(frozen=True)
class Flip:
    """One attack on one image.

    Attributes:
        size: of the network.
        eps: linf radius.
        image: counted from the first held out.
        attack: its name.
        limit: processor seconds it may take.
        beyond: whether it goes on after a flip.
        seed: of its random choices.
        clean: the objective (target's output minus prediction's) at the image itself.
        objective: the greatest found.
        scale: the greatest that any signs could have.
        flipped: whether onnxruntime confirms a positive one.
        seconds: processor time.
        history: seconds and objective of every improvement.
    """

    size: str
    eps: float
    image: int
    attack: str
    limit: float
    beyond: bool = False
    seed: int = 0
    clean: float = 0.0
    objective: float = 0.0
    scale: float = 1.0
    flipped: bool = False
    seconds: float = 0.0
    history: tuple[tuple[float, float], ...] = ()

    @property
    def key(self) -> tuple[object, ...]:
        """What was asked."""
        return (self.size, self.eps, self.image, self.attack, self.limit, self.beyond, self.seed)


@dataclass(frozen=True)
class Proof:
    """One image against all wrong classes.

    Attributes:
        model: name of the network.
        eps: linf radius.
        image: counted from the first held out.
        limit: processor seconds.
        verdict: of the default engines.
        engine: that decided, or why none did.
        seconds: processor time.
    """

    model: str
    eps: float
    image: int
    limit: float
    verdict: str = ""
    engine: str = ""
    seconds: float = 0.0

    @property
    def key(self) -> tuple[object, ...]:
        """What was asked."""
        return (self.model, self.eps, self.image, self.limit)


@dataclass(frozen=True)
class Agreement:
    """Random inputs on which integers and floating point are compared.

    Attributes:
        model: file name of the network.
        tied: whether its thresholds are moved to where sums tie with them.
        first: the first of the inputs.
        inputs: how many.
        double: outputs of the IR in float64 that equal the exact form's up to their last digits.
        single: the same of onnxruntime's, in float32.
        ties: sums behind the first layer that are equal to the integer threshold.
        seconds: processor time.
    """

    model: str
    tied: bool
    first: int
    inputs: int
    double: int = 0
    single: int = 0
    ties: int = 0
    seconds: float = 0.0

    @property
    def key(self) -> tuple[object, ...]:
        """What was asked."""
        return (self.model, self.tied, self.first, self.inputs)


Answer = TypeVar("Answer", Flip, Proof, Agreement)


class Lines(Generic[Answer]):
    """Answers in a file; a line that was cut short is asked again.

    Args:
        path: of the file, which need not exist.
        kind: of the answers.
    """

    def __init__(self, path: Path, kind: type[Answer]) -> None:
        self._path = path
        self._known: dict[tuple[object, ...], Answer] = {}
        names = {field.name for field in fields(kind)}
        for line in path.read_text().splitlines() if path.exists() else ():
            try:
                values = json.loads(line)
            except json.JSONDecodeError:
                continue
            if set(values) == names:
                answer = kind(**values)
                self._known[answer.key] = answer

    def get(self, asked: Answer) -> Answer | None:
        """What a former run answered."""
        return self._known.get(asked.key)

    def add(self, answer: Answer) -> None:
        """Append at once."""
        self._known[answer.key] = answer
        with self._path.open("a") as file:
            file.write(json.dumps(asdict(answer)) + "\n")
