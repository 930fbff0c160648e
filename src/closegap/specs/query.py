"""A query: network + region + property."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from closegap.core.errors import SpecError
from closegap.graph.network import Network
from closegap.specs.property import Property, robustness_property, targeted_property
from closegap.specs.region import Ball, Region, bounding_box, lp_ball

__all__ = ["Query", "fitted", "robustness", "targeted"]


@dataclass(frozen=True, eq=False)
class Query:
    """Can the property be broken inside the region?

    Attributes:
        network: the network.
        region: where inputs may lie, in the network's input shape.
        prop: what must hold of the outputs.
        name: for reports.
        center: float32, the point the question started from (the clean image), if there is one.

    Raises:
        SpecError: the region or the property does not fit the network.
    """

    network: Network
    region: Region
    prop: Property
    name: str = ""
    center: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        box = bounding_box(self.region)
        if box.lower.shape != self.network.input_shape:
            raise SpecError(
                f"the region has shape {box.lower.shape}, the network's input "
                f"{self.network.input_shape}"
            )
        if self.prop.rows.shape[1] != self.network.output_size:
            raise SpecError(
                f"the property speaks of {self.prop.rows.shape[1]} outputs, the network has "
                f"{self.network.output_size}"
            )
        if self.network.softmax_dropped and not self.prop.compares_outputs_only:
            raise SpecError(
                "the network ends in a Softmax, which only comparisons between outputs survive; "
                "remove the Softmax from the model or compare outputs only"
            )

    @property
    def reference(self) -> NDArray[np.float64]:
        """A ball's center; of a box the clean input, else the middle. In the input shape."""
        if isinstance(self.region, Ball):
            return self.region.center
        if self.center is not None:
            return self.center.astype(np.float64)
        box = self.region
        return np.clip(box.lower / 2 + box.upper / 2, box.lower, box.upper)


def robustness(
    network: Network,
    image: ArrayLike,
    label: int,
    eps: float,
    *,
    norm: float = math.inf,
    target: int | None = None,
) -> Query:
    """Does the network keep `label` on every input within `eps` of `image`, in [0, 1]?

    Args:
        network: with inputs in [0, 1].
        image: of the network's input shape. Axes of length 1 may be missing or added, and a flat
            image of a network that is not flat, or the reverse, is taken in row-major order.
        label: the true class.
        eps: radius of the ball, in input units.
        norm: 1, 2 or infinity.
        target: one class to defend against, instead of all.

    Raises:
        SpecError, OptionError: shape, label, target, radius or norm do not fit.
    """
    return _around(
        network, image, robustness_property(label, network.output_size, target), eps, norm
    )


def targeted(
    network: Network, image: ArrayLike, target: int, eps: float, *, norm: float = math.inf
) -> Query:
    """Is there no input within `eps` of `image`, in [0, 1], on which `target` wins?

    Args:
        network, image, eps, norm: see `robustness`.
        target: the class; a counterexample gives it more than every other.

    Raises:
        SpecError, OptionError: shape, target, radius or norm do not fit.
    """
    return _around(network, image, targeted_property(target, network.output_size), eps, norm)


def _around(network: Network, image: ArrayLike, prop: Property, eps: float, norm: float) -> Query:
    picture = fitted(network, image)
    return Query(network, lp_ball(picture, eps, norm=norm), prop, center=picture.astype(np.float32))


def fitted(network: Network, image: ArrayLike) -> NDArray[np.number]:
    """An image in the network's input shape; see `robustness`.

    Raises:
        SpecError: it does not fit.
    """
    picture = np.asarray(image)
    if picture.shape == network.input_shape:
        return picture
    # Never between [C, H, W] and [H, W, C]: that would scramble the image.
    bare, wanted = (tuple(n for n in s if n != 1) for s in (picture.shape, network.input_shape))
    alike = bare == wanted or min(len(bare), len(wanted)) <= 1
    if picture.size != network.input_size or not alike:
        raise SpecError(
            f"an image of shape {picture.shape} does not fit the network's input "
            f"{network.input_shape}"
        )
    return picture.reshape(network.input_shape)
