"""How a gradient becomes a displacement. Lengths are in units of the region: 1 spans its radius."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from closegap.attacks.projection import RegionBatch, steepest
from closegap.core.numerics import TINY

__all__ = ["AdamStepper", "Memory", "SteepestStepper", "Stepper"]

#: What a stepper keeps between steps: tensors `[B, L, D]`, or none.
Memory: TypeAlias = tuple[Tensor, ...]


@runtime_checkable
class Stepper(Protocol):
    """Turns gradients into displacements of unit length."""

    def __call__(
        self, regions: RegionBatch, gradient: Float[Tensor, "B L D"], memory: Memory, taken: int
    ) -> tuple[Float[Tensor, "B L D"], Memory]:
        """The displacement that lowers the loss, and the memory for the next step.

        Args:
            regions: whose geometry counts.
            gradient: of the loss.
            memory: as returned last time; empty at first.
            taken: how many steps came before.
        """
        ...


@dataclass(frozen=True)
class SteepestStepper:
    """The steepest step of the region's own norm; for boxes the sign of the gradient.

    Attributes:
        momentum: weight of the former direction, each gradient scaled to a mean size of 1
            (Dong et al., MI-FGSM, 2018); 0 for none.
    """

    momentum: float = 0.0

    def __call__(
        self, regions: RegionBatch, gradient: Float[Tensor, "B L D"], memory: Memory, taken: int
    ) -> tuple[Float[Tensor, "B L D"], Memory]:
        """From the center to the region's point of least inner product with the direction."""
        if self.momentum == 0.0:
            return steepest(regions, gradient), ()
        size = gradient.abs().mean(dim=2, keepdim=True).clamp(min=TINY)
        former = memory[0] if memory else torch.zeros_like(gradient)
        direction = self.momentum * former + gradient / size
        return steepest(regions, direction), (direction,)


@dataclass(frozen=True)
class AdamStepper:
    """Adam in coordinates scaled so that every input's range has the same length.

    Meant for boxes: in a ball its steps are not along the gradient, so it stops short of the rim's
    best point.

    Source: Kingma and Ba (2015).
    """

    beta1: float = 0.9
    beta2: float = 0.999

    def __call__(
        self, regions: RegionBatch, gradient: Float[Tensor, "B L D"], memory: Memory, taken: int
    ) -> tuple[Float[Tensor, "B L D"], Memory]:
        """Minus the bias-corrected mean over the root of the bias-corrected square."""
        unit = regions.unit[:, None]
        scaled = gradient * unit
        # A scale for each lane keeps tiny gradients (1e-20) out of the denormals when squared.
        scaled = scaled / scaled.abs().amax(dim=2, keepdim=True).clamp(min=TINY)
        first, second = memory if memory else (torch.zeros_like(scaled),) * 2
        first = self.beta1 * first + (1 - self.beta1) * scaled
        second = self.beta2 * second + (1 - self.beta2) * scaled.square()
        mean = first / (1 - self.beta1 ** (taken + 1))
        root = (second / (1 - self.beta2 ** (taken + 1))).sqrt()
        return -unit * mean / root.clamp(min=TINY), (first, second)
