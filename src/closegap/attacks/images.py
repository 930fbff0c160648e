"""The calling convention of attack libraries: images and labels in, adversarial images out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Shaped
from numpy.typing import NDArray
from torch import Tensor

from closegap.attacks.activation.query_attack import Attack, run_attack
from closegap.attacks.gradient.options import AttackOptions
from closegap.attacks.modes import (
    ANY_CLASS,
    BY_LABEL,
    Subjects,
    TargetMap,
    by_function,
    least_likely,
    random_class,
)
from closegap.core.budget import Budget
from closegap.core.errors import DataError, OptionError
from closegap.graph.network import Network
from closegap.runtime.torch_network import TorchNetwork
from closegap.specs.property import robustness_property
from closegap.specs.query import robustness, targeted
from closegap.specs.region import named_norm

__all__ = [
    "Aim",
    "BoundAttack",
    "ImageAttack",
    "Model",
    "Norm",
    "RadiusSearch",
    "Search",
    "attack_images",
    "norm_value",
]

Model: TypeAlias = Network | torch.nn.Module
Norm: TypeAlias = str | float | int


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
        search = RadiusSearch(self.factory(options), float(eps), norm_value(norm), seed)
        return BoundAttack(net, search)


@dataclass(frozen=True)
class Aim:
    """What an image shall become.

    Attributes:
        label: the class that came with it.
        target: the class that shall win over all others; `None` for any but the label.
    """

    label: int
    target: int | None = None


@runtime_checkable
class Search(Protocol):
    """How images are attacked once their aims are known."""

    @property
    def seed(self) -> int:
        """Of every random choice."""
        ...

    def __call__(
        self,
        network: Network,
        images: Float[np.ndarray, "B ..."],
        aims: Sequence[Aim],
        device: torch.device,
    ) -> Sequence[NDArray[np.float32] | None]:
        """The best input found for each image, in any shape; `None` where there is none."""
        ...


class BoundAttack:
    """An attack on one network: call it with images in [0, 1] and their true labels.

    As in torchattacks, a mode that was set holds for all calls that follow. An image that is aimed
    at a class counts as broken where the network gives that class more than every other.

    Args:
        net: a network, or a torch module (exported at every call, so that its present weights
            count; export it yourself with `closegap.from_torch` to save that).
        search: how images are attacked.
    """

    def __init__(self, net: Model, search: Search) -> None:
        self.net = net
        self.search = search
        self._mode = ANY_CLASS

    def get_mode(self) -> str:
        """The present mode, such as `default` or `targeted(label)`."""
        return self._mode.name

    def set_mode_default(self) -> None:
        """Any class but the true label will do."""
        self._mode = ANY_CLASS

    def set_mode_targeted_by_label(self) -> None:
        """The labels that calls are given are the targets."""
        self._mode = BY_LABEL

    def set_mode_targeted_by_function(self, target_map_function: TargetMap) -> None:
        """Targets are `target_map_function(images, labels)`, one class an image."""
        self._mode = by_function(target_map_function)

    def set_mode_targeted_least_likely(self, kth_min: int = 1) -> None:
        """The target is the class of `kth_min`-th least output at the image, the label left out.

        Raises:
            OptionError: `kth_min` is below 1; at calls, where there are not so many other classes.
        """
        self._mode = least_likely(kth_min)

    def set_mode_targeted_random(self) -> None:
        """The target is any class but the label, by the attack's seed."""
        self._mode = random_class()

    def __call__(
        self, images: Shaped[Tensor, "..."], labels: Shaped[Tensor, "..."]
    ) -> Float[Tensor, "B ..."]:
        """Perturb every image so that its label is lost, or its target won, as far as found out.

        Args:
            images: `[B, ...]` in [0, 1], on any device; attacks by gradients run there.
            labels: `[B]`, the true classes; or the targets, in the mode for that.

        Returns:
            float32 images of the same shape, on the same device: the best that was found of each,
            and the image itself where nothing was.

        Raises:
            DataError: images, labels or targets do not fit each other, or are not what they
                should be.
            OptionError, SpecError: radius, norm, classes or shapes do not fit the network.
        """
        batch, classes = _checked_batch(images, labels)
        if not len(batch):
            return torch.zeros_like(batch, dtype=torch.float32, device=images.device)
        network = _as_network(self.net, batch[:1])
        aims = self._aims(network, batch.to(images.device), classes)
        found = self.search(network, batch.numpy(), aims, images.device)
        best = [
            image.float() if point is None else torch.as_tensor(point).reshape(image.shape)
            for image, point in zip(batch, found, strict=True)
        ]
        return torch.stack(best).to(images.device)

    def _aims(
        self, network: Network, images: Float[Tensor, "B ..."], classes: list[int]
    ) -> list[Aim]:
        """Of each image; targets are checked as labels are."""
        if self._mode.targets is None:
            return [Aim(label) for label in classes]
        if self._mode is not BY_LABEL:
            for label in set(classes):
                robustness_property(label, network.output_size)  # refuses what is no class
        labels = torch.tensor(classes, device=images.device)
        lens = TorchNetwork(network, device=images.device)
        subjects = Subjects(lens, images.float(), labels, self.search.seed)
        targets = _checked_classes(len(images), self._mode.targets(subjects), "target")
        return [Aim(label, target) for label, target in zip(classes, targets, strict=True)]


@dataclass(frozen=True, eq=False)
class RadiusSearch:
    """Least margins within a radius.

    Attributes:
        method: the attack.
        eps: radius, in units of pixels in [0, 1].
        norm: 1, 2 or infinity.
        seed: of every random choice.
    """

    method: Attack
    eps: float
    norm: float
    seed: int

    def __call__(
        self,
        network: Network,
        images: Float[np.ndarray, "B ..."],
        aims: Sequence[Aim],
        device: torch.device,
    ) -> list[NDArray[np.float32] | None]:
        """See `Search`."""
        queries = [
            robustness(network, image, aim.label, self.eps, norm=self.norm)
            if aim.target is None
            else targeted(network, image, aim.target, self.eps, norm=self.norm)
            for image, aim in zip(images, aims, strict=True)
        ]
        lens = TorchNetwork(network, device=device)
        outcomes = run_attack(lens, queries, self.method, Budget(seed=self.seed))
        return [outcome.best for outcome in outcomes]


def norm_value(norm: Norm) -> float:
    """1, 2 or infinity, from `"1"`, `"l2"`, `"inf"` and the like or from a number.

    Raises:
        OptionError: it is none of them.
    """
    value = named_norm(norm)
    if not value:  # nor pixels, which have no radius
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
    """One call of a `BoundAttack` in its default mode.

    Args:
        model: a network, or a torch module that is exported now.
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
    search = RadiusSearch(method, float(eps), norm_value(norm), seed)
    return BoundAttack(model, search)(images, labels)


def _checked_batch(
    images: Shaped[Tensor, "..."], labels: Shaped[Tensor, "..."]
) -> tuple[Float[Tensor, "B ..."], list[int]]:
    """Images on the CPU, in float32 if they are not in float64, and the class of each.

    Raises:
        DataError: there is no batch axis, images are complex, or labels are not one whole number
            an image.
    """
    if not images.ndim or images.is_complex():
        kind = "complex numbers" if images.is_complex() else "no batch axis"
        raise DataError(f"images must be real, with a batch axis in front; these have {kind}")
    batch = images.detach().cpu()
    classes = _checked_classes(len(images), labels, "label")
    return (batch if batch.dtype == torch.float64 else batch.float()), classes


def _checked_classes(count: int, given: Shaped[Tensor, "..."], word: str) -> list[int]:
    """One class an image, as whole numbers.

    Args:
        count: how many images there are.
        given: a number an image, or a sequence of them.
        word: what the numbers are: `label` or `target`.

    Raises:
        DataError: they are not one whole number an image.
    """
    numbers = torch.as_tensor(given)
    if numbers.ndim == 1 and len(numbers) != count:
        raise DataError(f"{count} images came with {len(numbers)} {word}s")
    if numbers.ndim != 1 or numbers.dtype == torch.bool or numbers.is_complex():
        kind = f"{str(numbers.dtype).removeprefix('torch.')} of shape {list(numbers.shape)}"
        raise DataError(f"{word}s must be one class number an image, not {kind}")
    whole = numbers.isfinite() & (numbers == numbers.round())
    if not whole.all():
        raise DataError(f"{word} {numbers[~whole][0].item()} is not a whole number")
    return [int(number) for number in numbers.tolist()]


def _as_network(model: Model, example: Float[Tensor, "B ..."]) -> Network:
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
