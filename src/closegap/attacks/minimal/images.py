"""The calling convention of attack libraries, for attacks without a radius."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from closegap.attacks.gradient.options import AttackOptions
from closegap.attacks.images import Model, as_network, checked_batch
from closegap.attacks.minimal.attack import MinimalAttack
from closegap.attacks.minimal.registry import make_minimal
from closegap.core.budget import Budget
from closegap.core.errors import OptionError
from closegap.specs.distance import DistanceQuery
from closegap.specs.objectives import make_objective

__all__ = [
    "CW",
    "EAD",
    "FMN",
    "BoundMinimalAttack",
    "DeepFool",
    "MinimalImageAttack",
    "SigmaZero",
    "SparseFool",
]

_OBJECTIVES = {0.0: "l0", 1.0: "l1", 2.0: "l2", np.inf: "linf"}


@dataclass(frozen=True)
class MinimalImageAttack:
    """An attack before it is given a network: `SigmaZero(net)` is one that is.

    Attributes:
        name: in the registry.
    """

    name: str

    def __call__(
        self,
        net: Model,
        *,
        steps: int | None = None,
        restarts: int | None = None,
        norm: str | float | None = None,
        seed: int = 0,
    ) -> BoundMinimalAttack:
        """The attack on this network.

        Args:
            net: a network, or a torch module (exported at every call of the attack).
            steps: the attack's own default if `None`.
            restarts: lanes an image.
            norm: 0 (pixels), 1, 2 or inf; the attack's own if `None`.
            seed: of every random choice.

        Raises:
            OptionError: a number is out of its range, or the attack does not know the norm.
        """
        wanted = None if norm is None else _norm(norm)
        attack = make_minimal(self.name, AttackOptions(steps, restarts), wanted)
        return BoundMinimalAttack(net, attack, seed)


def _norm(norm: str | float) -> float:
    try:
        return float(str(norm).lower().removeprefix("l"))
    except ValueError:
        raise OptionError(f"norm must be 0, 1, 2 or inf, got {norm}") from None


@dataclass(frozen=True, eq=False)
class BoundMinimalAttack:
    """An attack on one network: call it with images in [0, 1] and their true labels."""

    net: Model
    attack: MinimalAttack
    seed: int

    def __call__(
        self, images: Shaped[Tensor, "..."], labels: Shaped[Tensor, "..."]
    ) -> Float[Tensor, "B ..."]:
        """The nearest counterexamples found, each replayed on the ONNX file.

        Args:
            images: `[B, ...]` in [0, 1], on any device; the attack runs there.
            labels: `[B]`, the true classes.

        Returns:
            float32 images of the same shape; the clean image where nothing was found.

        Raises:
            DataError: images and labels do not fit each other, or are not what they should be.
            OptionError, SpecError: labels or shapes do not fit the network.
        """
        batch, classes = checked_batch(images, labels)
        clean = batch.float()
        if not len(clean):
            return torch.zeros_like(clean, device=images.device)
        network = as_network(self.net, clean[:1])
        name = _OBJECTIVES[self.attack.method.norm]
        queries = [
            DistanceQuery(network, image, label, make_objective(name, image))
            for image, label in zip(
                clean.numpy().reshape(-1, *network.input_shape), classes, strict=True
            )
        ]
        nearest = self.attack.run_all(queries, Budget(seed=self.seed), device=images.device)
        found: list[Any] = [
            old if new.point is None else torch.from_numpy(new.point).reshape(old.shape)
            for old, new in zip(clean, nearest, strict=True)
        ]
        return torch.stack(found).to(images.device)


#: `SigmaZero(net)(images, labels)`: adversarial images of few changed pixels.
SigmaZero = MinimalImageAttack("sigma-zero")
#: `FMN(net, norm="inf")(images, labels)`: near adversarial images, in l0, l1, l2 or linf.
FMN = MinimalImageAttack("fmn")
#: `EAD(net)(images, labels)`: near adversarial images in l1.
EAD = MinimalImageAttack("ead")
#: `SparseFool(net)(images, labels)`: near adversarial images in l1.
SparseFool = MinimalImageAttack("sparsefool")
#: `DeepFool(net)(images, labels)`: near adversarial images, in l1, l2 or linf.
DeepFool = MinimalImageAttack("deepfool")
#: `CW(net)(images, labels)`: near adversarial images in l2.
CW = MinimalImageAttack("cw")
