"""What images shall become: any wrong class, or a target of each; in the words of torchattacks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from closegap.core.errors import OptionError
from closegap.graph.network import Network
from closegap.runtime.torch_network import TorchNetwork
from closegap.specs.query import fitted

__all__ = [
    "ANY_CLASS",
    "BY_LABEL",
    "Mode",
    "Subjects",
    "TargetMap",
    "by_function",
    "least_likely",
    "random_class",
]

#: From images and labels, as the caller gave them, to the target of each image.
TargetMap: TypeAlias = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Subjects:
    """Images under attack.

    Attributes:
        network: float32, on the device of the images.
        images: as they were given.
        labels: the classes that came with them.
        seed: of random targets.
    """

    network: TorchNetwork
    images: Float[Tensor, "B ..."]
    labels: Int[Tensor, "B"]
    seed: int


@dataclass(frozen=True)
class Mode:
    """Which class each image shall become.

    Attributes:
        name: as `get_mode` says it.
        targets: one class an image; `None` where every class but the label counts.
    """

    name: str
    targets: Callable[[Subjects], Shaped[Tensor, "B"]] | None = None


#: Every class but the label counts.
ANY_CLASS = Mode("default")
#: The labels that are given are the targets.
BY_LABEL = Mode("targeted(label)", lambda subjects: subjects.labels)


def by_function(function: TargetMap) -> Mode:
    """Targets by a function of images and labels."""
    return Mode("targeted(custom)", lambda subjects: function(subjects.images, subjects.labels))


def least_likely(rank: int = 1) -> Mode:
    """The class of rank-th least output at the image itself, the label left out.

    Raises:
        OptionError: the rank is below 1; at the attack, where there are not so many other classes.
    """
    if rank < 1:
        raise OptionError(f"kth_min must be at least 1, got {rank}")

    def targets(subjects: Subjects) -> Tensor:
        network = subjects.network
        _check_others(network.network, rank)
        pictures = [fitted(network.network, image) for image in subjects.images.cpu().numpy()]
        with torch.no_grad():
            outputs = network(network.tensor(np.stack(pictures)))
        ranked = outputs.scatter(1, subjects.labels[:, None], torch.inf)
        return ranked.argsort(dim=1, stable=True)[:, rank - 1]

    return Mode("targeted(least-likely)", targets)


def random_class() -> Mode:
    """Any class but the label, by the attack's seed."""

    def targets(subjects: Subjects) -> Tensor:
        classes = subjects.network.network.output_size
        _check_others(subjects.network.network, 1)
        random = torch.Generator().manual_seed(subjects.seed)
        away = torch.randint(1, classes, (len(subjects.labels),), generator=random)
        return (subjects.labels + away.to(subjects.labels.device)) % classes

    return Mode("targeted(random)", targets)


def _check_others(network: Network, count: int) -> None:
    others = network.output_size - 1
    if others < count:
        raise OptionError(f"the network has {others} other classes than the label, not {count}")
