"""A distance query: network + image + label + distance. How near is the nearest lost label?"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from closegap.core.errors import OptionError, SpecError
from closegap.graph.network import Network
from closegap.specs.layout import Layout, picture_of
from closegap.specs.objectives import Grid, LinfDistance, Objective, norm_objective
from closegap.specs.query import Query, robustness, targeted
from closegap.specs.region import Box

__all__ = ["DistanceQuery"]


@dataclass(frozen=True, eq=False)
class DistanceQuery:
    """How far is it from an image to the nearest input in [0, 1] that loses its label?

    Attributes:
        network: with inputs in [0, 1].
        image: float32, where distances are measured from.
        label: the true class.
        objective: the distance.
        target: the one class that counts as a loss; `None` for every other.
        outright: whether the target must win over all classes, not only over the label, which then
            plays no part.
        layout: of a flat input, which entries are one pixel; `None` for what the network tells.

    Raises:
        SpecError: the network has one output, so that no other class can win; the image or the
            distance is of another number of inputs; the image leaves [0, 1] or is not finite; or
            no target is given where one must win outright.
    """

    network: Network
    image: NDArray[np.float32]
    label: int
    objective: Objective = field(default_factory=LinfDistance)
    target: int | None = None
    outright: bool = False
    layout: Layout | None = None

    def __post_init__(self) -> None:
        if self.network.output_size < 2:
            raise SpecError("the network has one output: there is no class to lose the label to")
        size, inputs = self.objective.size, self.network.input_size
        if self.image.size != inputs:
            raise SpecError(f"the image has {self.image.size} entries, the network {inputs} inputs")
        if not ((self.image >= 0) & (self.image <= 1)).all():
            raise SpecError("the image has an entry that is not a number in [0, 1]")
        if size not in (None, inputs):
            raise SpecError(
                f"the distance {self.objective.name} is of {size} inputs, the network has {inputs}"
            )
        if self.outright and self.target is None:
            raise SpecError("outright needs a target")

    @classmethod
    def of_norm(
        cls,
        network: Network,
        image: NDArray[np.float32],
        label: int,
        norm: float = math.inf,
        target: int | None = None,
    ) -> DistanceQuery:
        """The query under a norm: 1, 2 or infinity.

        Raises:
            OptionError: the norm is none of these.
        """
        return cls(network, image, label, norm_objective(norm), target)

    @property
    def norm(self) -> float:
        """The norm that the distance is.

        Raises:
            OptionError: it is none.
        """
        if self.objective.norm is None:
            raise OptionError(f"the distance {self.objective.name} is no norm")
        return self.objective.norm

    @property
    def picture(self) -> Grid:
        """Which entries of the input are one pixel."""
        return picture_of(self.network, self.layout)

    @property
    def center(self) -> Float[np.ndarray, "D"]:
        """The image, flat, float64."""
        return self.image.reshape(-1).astype(np.float64)

    @cached_property
    def farthest(self) -> float:
        """No input in [0, 1] is farther: a proof beyond says that there is no counterexample."""
        return self.objective.greatest(self.center)

    def within(self, radius: float) -> Query:
        """A decision query over a region that holds every input within this distance.

        Where the property holds there, the label is kept within the distance. A counterexample to
        it may be farther than the distance, unless this is a norm: `distance` says how far.

        Raises:
            SpecError, OptionError: image, label, target or radius do not fit the network.
        """
        region = self.objective.region(self.center, radius, self.network.input_shape)
        return replace(self._at_image(), region=region)

    def anywhere(self) -> Query:
        """The decision query over all of [0, 1].

        Raises:
            SpecError: image, label or target do not fit the network.
        """
        shape = self.network.input_shape
        return replace(self._at_image(), region=Box(np.zeros(shape), np.ones(shape)))

    def _at_image(self) -> Query:
        if self.target is not None and self.outright:
            return targeted(self.network, self.image, self.target, 0.0)
        return robustness(self.network, self.image, self.label, 0.0, target=self.target)

    def distance(self, point: NDArray[np.floating]) -> float:
        """From the image to a point, rounded up so that `within` holds the point."""
        return self.objective.attained(self.center, point.astype(np.float64).reshape(-1))
