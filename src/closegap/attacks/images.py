"""The calling convention of attack libraries: images and labels in, adversarial images out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from closegap.attacks.activation.query_attack import Attack, run_attack
from closegap.attacks.gradient.options import AttackOptions
from closegap.core.budget import Budget
from closegap.core.errors import DataError, OptionError
from closegap.graph.network import Network
from closegap.runtime.torch_network import TorchNetwork
from closegap.specs.query import robustness

__all__ = [
    "BoundAttack",
    "ImageAttack",
    "Model",
    "Norm",
    "as_network",
    "attack_images",
    "norm_value",
]

Model: TypeAlias = Network | torch.nn.Module
Norm: TypeAlias = str | float | int

_NORMS: dict[str, float] = {"inf": math.inf, "linf": math.inf, "2": 2.0, "l2": 2.0} | {
    "1": 1.0,
    "l1": 1.0,
}


@dataclass(frozen=True, eq=False)
class ImageAttack:
    """An attack before it is given a network: `PGD(net, eps=0.3)` is one that is.

    Attributes:
        factory: makes the method from the user's options.
    """

    factory: Callable[[AttackOptions], Attack]

    def __call__(
        self,
        net: Model,
        eps: float,
        *,
        steps: int | None = None,
        restarts: int | None = None,
        norm: Norm = "inf",
        seed: int = 0,
    ) -> BoundAttack:
        """The attack on this network.

        Args:
            net: a network, or a torch module (exported at every call of the attack).
            eps: radius, in units of pixels in [0, 1].
            steps: the attack's own default if `None`.
            restarts: likewise.
            norm: 1, 2 or inf.
            seed: of every random choice.

        Raises:
            OptionError: a number is out of its range.
        """
        options = AttackOptions(steps=steps, restarts=restarts)
        return BoundAttack(net, self.factory(options), float(eps), norm_value(norm), seed)


@dataclass(frozen=True, eq=False)
class BoundAttack:
    """An attack on one network: call it with images in [0, 1] and their true labels."""

    net: Model
    method: Attack
    eps: float
    norm: float
    seed: int

    def __call__(
        self, images: Float[Tensor, "B ..."], labels: Int[Tensor, "labels"]
    ) -> Float[Tensor, "B ..."]:
        """Adversarial images; see `attack_images`."""
        return attack_images(
            self.net, images, labels, self.method, eps=self.eps, norm=self.norm, seed=self.seed
        )


def norm_value(norm: Norm) -> float:
    """1, 2 or infinity, from `"1"`, `"l2"`, `"inf"` and the like or from a number.

    Raises:
        OptionError: it is none of them.
    """
    text = str(norm).lower()
    value = _NORMS.get(text.removesuffix(".0"))
    if value is None:
        raise OptionError(f"norm must be 1, 2 or inf, got {norm}")
    return value


def attack_images(
    model: Model,
    images: Float[Tensor, "B ..."],
    labels: Int[Tensor, "labels"],
    method: Attack,
    *,
    eps: float,
    norm: Norm = "inf",
    seed: int = 0,
) -> Float[Tensor, "B ..."]:
    """Perturb every image within `eps` so that its label is lost, as far as the attack finds out.

    Args:
        model: a network, or a torch module that is exported now (once a call, so that its
            present weights count; export it yourself with `closegap.from_torch` to save that).
        images: in [0, 1], on any device; the attack runs there.
        labels: true classes.
        method: the attack.
        eps: radius, in units of pixels in [0, 1].
        norm: 1, 2 or inf.
        seed: of every random choice.

    Returns:
        float32 images of the same shape, each the one of least margin found in its ball.

    Raises:
        DataError: images and labels do not fit each other.
        OptionError, SpecError: radius, norm, labels or shapes do not fit the network.
    """
    if len(images) != len(labels):
        raise DataError(f"{len(images)} images came with {len(labels)} labels")
    network = as_network(model, images[:1])
    arrays = images.detach().cpu().numpy()
    queries = [
        robustness(network, image, int(label), float(eps), norm=norm_value(norm))
        for image, label in zip(arrays, labels.tolist(), strict=True)
    ]
    device = images.device
    outcomes = run_attack(TorchNetwork(network, device=device), queries, method, Budget(seed=seed))
    found = [
        image if outcome.best is None else outcome.best.reshape(image.shape)
        for image, outcome in zip(arrays, outcomes, strict=True)
    ]
    if not found:
        return images.detach().float().clone()
    return torch.stack([torch.as_tensor(f, dtype=torch.float32) for f in found]).to(device)


def as_network(model: Model, example: Float[Tensor, "B ..."]) -> Network:
    """The network, or the torch module exported with this example."""
    if isinstance(model, Network):
        return model
    from closegap.frontend import from_torch  # heavy, and needed for modules only

    return from_torch(model, example)
