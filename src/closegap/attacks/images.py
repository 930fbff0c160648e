"""The calling convention of attack libraries: images and labels in, adversarial images out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float, Shaped
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
    "checked_batch",
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
        self, images: Shaped[Tensor, "..."], labels: Shaped[Tensor, "..."]
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
    images: Shaped[Tensor, "..."],
    labels: Shaped[Tensor, "..."],
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
        images: `[B, ...]` in [0, 1], on any device; attacks by gradients run there.
        labels: `[B]`, the true classes.
        method: the attack.
        eps: radius, in units of pixels in [0, 1].
        norm: 1, 2 or inf.
        seed: of every random choice.

    Returns:
        float32 images of the same shape, each the one of least margin found in its ball.

    Raises:
        DataError: images and labels do not fit each other, or are not what they should be.
        OptionError, SpecError: radius, norm, labels or shapes do not fit the network.
    """
    batch, classes = checked_batch(images, labels)
    network = as_network(model, batch[:1])
    arrays = batch.numpy()
    queries = [
        robustness(network, image, label, float(eps), norm=norm_value(norm))
        for image, label in zip(arrays, classes, strict=True)
    ]
    device = images.device
    outcomes = run_attack(TorchNetwork(network, device=device), queries, method, Budget(seed=seed))
    found = [
        image if outcome.best is None else outcome.best.reshape(image.shape)
        for image, outcome in zip(arrays, outcomes, strict=True)
    ]
    if not found:
        return torch.zeros_like(batch, dtype=torch.float32, device=device)
    return torch.stack([torch.as_tensor(f, dtype=torch.float32) for f in found]).to(device)


def checked_batch(
    images: Shaped[Tensor, "..."], labels: Shaped[Tensor, "..."]
) -> tuple[Float[Tensor, "B ..."], list[int]]:
    """Images on the CPU, in float32 if they are not in float64, and the class of each.

    Raises:
        DataError: there is no batch axis, images are complex, or labels are not one whole number
            an image.
    """
    labels = torch.as_tensor(labels)
    if not images.ndim or images.is_complex():
        kind = "complex numbers" if images.is_complex() else "no batch axis"
        raise DataError(f"images must be real, with a batch axis in front; these have {kind}")
    if labels.ndim == 1 and len(labels) != len(images):
        raise DataError(f"{len(images)} images came with {len(labels)} labels")
    if labels.ndim != 1 or labels.dtype == torch.bool or labels.is_complex():
        kind = f"{str(labels.dtype).removeprefix('torch.')} of shape {list(labels.shape)}"
        raise DataError(f"labels must be one class number an image, not {kind}")
    whole = labels.isfinite() & (labels == labels.round())
    if not whole.all():
        raise DataError(f"label {labels[~whole][0].item()} is not a whole number")
    batch = images.detach().cpu()
    return (batch if batch.dtype == torch.float64 else batch.float()), labels.long().tolist()


def as_network(model: Model, example: Float[Tensor, "B ..."]) -> Network:
    """The network, or the torch module exported with this example.

    Raises:
        OptionError: it is neither.
        ModelError, UnsupportedOpError: see `closegap.from_torch`.
    """
    if isinstance(model, Network):
        return model
    if not isinstance(model, torch.nn.Module):
        kind = type(model).__name__
        raise OptionError(f"an attack needs a closegap network or a torch module, got {kind}")
    from closegap.frontend import from_torch  # heavy, and needed for modules only

    return from_torch(model, example)
