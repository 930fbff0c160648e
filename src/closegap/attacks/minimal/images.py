"""The calling convention of attack libraries, for attacks without a radius."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray

from closegap.attacks.gradient.options import AttackOptions
from closegap.attacks.images import Aim, BoundAttack, Model
from closegap.attacks.minimal.attack import MinimalAttack
from closegap.attacks.minimal.registry import make_minimal
from closegap.core.budget import Budget
from closegap.core.errors import OptionError
from closegap.graph.network import Network
from closegap.specs.distance import DistanceQuery
from closegap.specs.layout import picture_of
from closegap.specs.objectives import make_objective
from closegap.specs.query import fitted
from closegap.specs.region import named_norm

__all__ = [
    "CW",
    "EAD",
    "FMN",
    "DeepFool",
    "MinimalImageAttack",
    "NearestSearch",
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
    ) -> BoundAttack:
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
        return BoundAttack(net, NearestSearch(attack, seed))


def _norm(norm: str | float) -> float:
    value = named_norm(norm)
    if value is None:
        raise OptionError(f"norm must be 0, 1, 2 or inf, got {norm}")
    return value


@dataclass(frozen=True, eq=False)
class NearestSearch:
    """The nearest counterexamples found, each replayed on the ONNX file.

    Attributes:
        attack: of least distance.
        seed: of every random choice.
    """

    attack: MinimalAttack
    seed: int

    def __call__(
        self,
        network: Network,
        images: Float[np.ndarray, "B ..."],
        aims: Sequence[Aim],
        device: torch.device,
    ) -> list[NDArray[np.float32] | None]:
        """See `Search`."""
        name = _OBJECTIVES[self.attack.method.norm]
        queries = []
        for image, aim in zip(images, aims, strict=True):
            picture = fitted(network, image).astype(np.float32)
            queries.append(
                DistanceQuery(
                    network,
                    picture,
                    aim.label,
                    make_objective(name, picture, grid=picture_of(network)),
                    aim.target,
                    outright=aim.target is not None,
                )
            )
        found = self.attack.run_all(queries, Budget(seed=self.seed), device=device)
        return [nearest.point for nearest in found]


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
