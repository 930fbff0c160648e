"""What a lane lowers: functions of the outputs, one value a lane."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from closegap.attacks.gradient.problem import Problem, clause_margins, lane_margins
from closegap.core.errors import OptionError
from closegap.core.numerics import TINY

__all__ = ["CrossEntropyLoss", "GamaLoss", "LogitsRatioLoss", "Loss", "MarginLoss"]


@runtime_checkable
class Loss(Protocol):
    """A differentiable value `[B, L]` of outputs `[B, L, C]`; the attack makes it small."""

    def __call__(
        self, problem: Problem, outputs: Float[Tensor, "B L C"], taken: int
    ) -> Float[Tensor, "B L"]:
        """The value, `taken` steps into the attack."""
        ...

    def check(self, problem: Problem) -> None:
        """Say no before anything runs.

        Raises:
            OptionError: the property is not of the kind this loss is for.
        """
        ...


@dataclass(frozen=True)
class MarginLoss:
    """The margin of the lane's clause, over its rows the greatest (Carlini-Wagner's f6)."""

    def __call__(
        self, problem: Problem, outputs: Float[Tensor, "B L C"], taken: int
    ) -> Float[Tensor, "B L"]:
        """The margin itself."""
        return lane_margins(problem, clause_margins(problem, outputs))

    def check(self, problem: Problem) -> None:
        """Any property has a margin."""


@dataclass(frozen=True)
class CrossEntropyLoss:
    """The log-probability of the true class, or minus that of the class that shall win.

    The lane's clause plays no part.
    """

    def __call__(
        self, problem: Problem, outputs: Float[Tensor, "B L C"], taken: int
    ) -> Float[Tensor, "B L"]:
        """`log softmax(o)_y`; with an aim t `-log softmax(o)_t`."""
        chances = torch.log_softmax(outputs, dim=2)
        aimed = problem.aims >= 0
        place = torch.where(aimed, problem.aims, problem.labels)
        own = chances.gather(2, place[:, None, None].expand(-1, outputs.shape[1], 1))[..., 0]
        return torch.where(aimed[:, None], -own, own)

    def check(self, problem: Problem) -> None:
        """There must be a true class, or one that shall win."""
        _check_labels(problem, "cross-entropy")


@dataclass(frozen=True)
class GamaLoss:
    """The margin of probabilities, less a decaying reward for leaving the clean prediction.

    Attributes:
        weight: of `||softmax(o) - softmax(o_clean)||^2` at the first step.
        decay: factor on it at every step.

    Source: Sriramanan et al., Guided Adversarial Attack (2020), with both terms on softmax.
    """

    weight: float = 10.0
    decay: float = 0.9

    def __call__(
        self, problem: Problem, outputs: Float[Tensor, "B L C"], taken: int
    ) -> Float[Tensor, "B L"]:
        """`margin(p) - weight * decay^taken * ||p - p_clean||^2` with p = softmax(o)."""
        chances = torch.softmax(outputs, dim=2)
        margins = lane_margins(problem, clause_margins(problem, chances, offsets=False))
        away = (chances - torch.softmax(problem.clean, dim=1)[:, None]).square().sum(dim=2)
        return margins - self.weight * self.decay**taken * away

    def check(self, problem: Problem) -> None:
        """There must be a true class, or one that shall win."""
        _check_labels(problem, "GAMA")


@dataclass(frozen=True)
class LogitsRatioLoss:
    """The margin over a spread of the outputs (DLR), so that no scale of the outputs matters.

    With outputs sorted descending `z_1 >= z_2 >= ...` the spread is `z_1 - z_3`, and
    `z_1 - (z_3 + z_4) / 2` for lanes with a clause of their own and where one class shall win. With
    fewer classes the last one takes the missing ones' place.

    Source: Croce and Hein, Reliable Evaluation of Adversarial Robustness (2020), eqs. (6), (7).
    """

    def __call__(
        self, problem: Problem, outputs: Float[Tensor, "B L C"], taken: int
    ) -> Float[Tensor, "B L"]:
        """`margin / spread`."""
        margins = lane_margins(problem, clause_margins(problem, outputs))
        ranked = outputs.sort(dim=2, descending=True).values
        last = ranked.shape[2] - 1
        third, fourth = ranked[..., min(2, last)], ranked[..., min(3, last)]
        targeted = (problem.target >= 0) | (problem.aims >= 0)[:, None]
        below = torch.where(targeted, (third + fourth) / 2, third)
        return margins / (ranked[..., 0] - below).clamp(min=TINY)

    def check(self, problem: Problem) -> None:
        """There must be a true class, or one that shall win."""
        _check_labels(problem, "DLR")


def _check_labels(problem: Problem, loss: str) -> None:
    if bool(((problem.labels < 0) & (problem.aims < 0)).any()):
        raise OptionError(
            f"the {loss} loss needs a robustness property, of an image and its label; attacks on "
            "the margin take any: pgd, mt-pgd, fab or square"
        )
