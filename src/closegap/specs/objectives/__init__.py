"""Distances that a distance query can minimise: one a file, one line each in `OBJECTIVES`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from closegap.core.errors import OptionError
from closegap.specs.objectives.base import Objective
from closegap.specs.objectives.grid import Grid
from closegap.specs.objectives.l0 import L0Distance
from closegap.specs.objectives.l1 import L1Distance, visibility_weights
from closegap.specs.objectives.l1_tv import DEFAULT_KAPPA, L1TvDistance, VariationOf, priced
from closegap.specs.objectives.l2 import L2Distance
from closegap.specs.objectives.linf import LinfDistance

__all__ = [
    "OBJECTIVES",
    "Grid",
    "L0Distance",
    "L1Distance",
    "L1TvDistance",
    "L2Distance",
    "LinfDistance",
    "Objective",
    "ObjectiveOptions",
    "make_objective",
    "norm_objective",
    "priced",
    "visibility_weights",
]


@dataclass(frozen=True)
class ObjectiveOptions:
    """What some of the distances leave open; the others do not read it.

    Attributes:
        kappa: of `l1+tv`, weight of the total variation.
        of: of `l1+tv`, whose total variation.
        isotropic: of `l1+tv`, lengths of gradients in place of sums of differences.
    """

    kappa: float = DEFAULT_KAPPA
    of: VariationOf = "image"
    isotropic: bool = False


def _l1_tv(image: Float[np.ndarray, "D"], grid: Grid, options: ObjectiveOptions) -> L1TvDistance:
    return L1TvDistance(grid, options.kappa, options.of, options.isotropic)


#: From the clean image, flat, its picture, and options.
OBJECTIVES: dict[str, Callable[[Float[np.ndarray, "D"], Grid, ObjectiveOptions], Objective]] = {
    "linf": lambda image, grid, options: LinfDistance(),
    "l2": lambda image, grid, options: L2Distance(),
    "l1": lambda image, grid, options: L1Distance(),
    "l0": lambda image, grid, options: L0Distance(grid),
    "l1+tv": _l1_tv,
    "weighted-l1": lambda image, grid, options: L1Distance(visibility_weights(image, grid)),
}

_NORMS = {1.0: "l1", 2.0: "l2", np.inf: "linf"}


def make_objective(
    name: str,
    image: Float[np.ndarray, "..."],
    *,
    grid: Grid | None = None,
    options: ObjectiveOptions | None = None,
) -> Objective:
    """The distance of that name from an image.

    Args:
        name: one of `OBJECTIVES`.
        image: the clean one, in the network's input shape.
        grid: its picture; from its shape where none is given.
        options: see `ObjectiveOptions`.

    Raises:
        OptionError: the name is unknown, or an option is out of range.
    """
    if name not in OBJECTIVES:
        raise OptionError(f"no distance is called '{name}'; use one of {', '.join(OBJECTIVES)}")
    flat = np.asarray(image, dtype=np.float64).reshape(-1)
    picture = Grid.of(np.shape(image)) if grid is None else grid
    if picture.size != flat.size:
        raise OptionError(f"a picture of {picture.size} entries for an input of {flat.size}")
    return OBJECTIVES[name](flat, picture, options or ObjectiveOptions())


def norm_objective(norm: float) -> Objective:
    """The distance that is this norm of the difference.

    Raises:
        OptionError: the norm is not 1, 2 or infinity.
    """
    if norm not in _NORMS:
        raise OptionError(f"norm must be 1, 2 or inf, got {norm}")
    return OBJECTIVES[_NORMS[norm]](np.zeros(1), Grid(1, 1, 1), ObjectiveOptions())
