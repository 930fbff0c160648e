"""Planes below a property's rows over batches of boxes: what input splitting closes and cuts by.

Three ways: a lattice of maxima goes through `bounds.lattice`, any other chain of dense ReLU layers
through `bounds.boxes`, any other network through planes forward for all neurons, and backward for
those still undecided where that pays.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int, Int8
from numpy.typing import NDArray
from torch import Tensor

from closegap.bounds.backward import BackwardPass
from closegap.bounds.boxes import BoxChain, box_chain
from closegap.bounds.chain import may_fold
from closegap.bounds.forward import forward_activations
from closegap.bounds.intermediate import bound_activations
from closegap.bounds.regions import InputSet, least
from closegap.core.budget import Budget
from closegap.core.numerics import FLOAT64_UNIT
from closegap.graph.entries import affine_entries
from closegap.graph.network import Network
from closegap.verify.box_store import Boxes
from closegap.verify.incomplete import LinearVerifier

if TYPE_CHECKING:
    from closegap.bounds.lattice import Lattice

__all__ = ["BoxBounder", "RowPlanes", "box_bounder"]

#: Backward bounds may cost this many times what forward ones do.
_WORTH = 100


@dataclass(frozen=True, eq=False)
class RowPlanes:
    """`margin of row >= planes . x + constant - slack` for every x of a box.

    Attributes:
        planes: on the free inputs, `[B, Q, F]`.
        constant: `[B, Q]`.
        slack: rounding, `[B, Q]`.
        lower: proved lower bound of each row, `[B, Q]`; minus infinity where none is.
        signs: of neurons, see `Boxes`.
        blame: how much of what relaxations lose each input's width is to blame for, `[B, Q, F]`;
            zero where nobody knows.
    """

    planes: Float[Tensor, "B Q F"]
    constant: Float[Tensor, "B Q"]
    slack: Float[Tensor, "B Q"]
    lower: Float[Tensor, "B Q"]
    signs: Int8[Tensor, "B signs"]
    blame: Float[Tensor, "B Q F"]


@runtime_checkable
class BoxBounder(Protocol):
    """Bounds the rows it was made for.

    Attributes:
        signs: how many signs of neurons a box hands on to its halves.
    """

    @property
    def signs(self) -> int:
        """See above."""

    def bound(self, boxes: Boxes, budget: Budget) -> RowPlanes:
        """Planes and bounds on each box; looser ones where the budget ends on the way."""

    def margins(self, points: Float[Tensor, "M F"]) -> Float[Tensor, "M Q"] | None:
        """The rows at points of the free inputs, if that is cheaper than to offer them."""


def box_bounder(
    linear: LinearVerifier, free: Int[Tensor, "F"], rows: NDArray[np.int64]
) -> BoxBounder:
    """The fastest bounder for the query's network.

    Args:
        linear: the query's network and region.
        free: flat indices of the inputs that vary.
        rows: of the property, to bound.
    """
    region, prop = linear.exact_region, linear.query.prop
    coefficients = linear.exact.tensor(prop.rows[rows])
    offsets = linear.exact.tensor(prop.offsets[rows])
    lower, upper = region.lower.flatten(), region.upper.flatten()
    if region.center is None:
        found = _chain(linear, lower, upper, free)
        if found is not None:
            return _ChainBounder(found, coefficients, offsets)
    backward = _backward_pays(linear.query.network, len(free))
    return _GraphBounder(linear, free, coefficients, offsets, backward)


def _chain(
    linear: LinearVerifier, lower: Tensor, upper: Tensor, free: Tensor
) -> BoxChain | Lattice | None:
    """The lattice of a chain that is one, else the chain; `None` where the network is none."""
    if may_fold(linear.query.network):
        from closegap.bounds.lattice import lattice  # rare; its sparse matrices load slowly

        found = lattice(linear.query.network, lower, upper, free)
        if found is not None:
            return found
    return box_chain(linear.exact, lower, upper, free)


@dataclass(frozen=True, eq=False)
class _ChainBounder:
    """A chain of dense ReLU layers, or the lattice it stands for."""

    chain: BoxChain | Lattice
    rows: Tensor
    offsets: Tensor

    @property
    def signs(self) -> int:
        return self.chain.signs

    def bound(self, boxes: Boxes, budget: Budget) -> RowPlanes:
        """See `BoxBounder`; one batch is short, the budget is not looked at."""
        found = self.chain.bound(boxes.lower, boxes.upper, self.rows, boxes.signs)
        planes, constant = found.planes, found.constant + self.offsets
        ends = torch.minimum(planes * boxes.lower[:, None], planes * boxes.upper[:, None])
        total = ends.sum(dim=2) + constant
        slack = 2 * found.loss + 4 * FLOAT64_UNIT * total.abs()
        lower = _proved(total, slack)
        return RowPlanes(planes, constant, slack, lower, found.signs, found.blame)

    def margins(self, points: Float[Tensor, "M F"]) -> Float[Tensor, "M Q"]:
        """See `BoxBounder`."""
        return self.chain.values(points) @ self.rows.T + self.offsets


@dataclass(frozen=True, eq=False)
class _GraphBounder:
    """Any network whose ops have rules."""

    linear: LinearVerifier
    free: Tensor
    rows: Tensor
    offsets: Tensor
    backward: bool

    @property
    def signs(self) -> int:
        return 0

    def bound(self, boxes: Boxes, budget: Budget) -> RowPlanes:
        """See `BoxBounder`."""
        exact, region = self.linear.exact, self._region(boxes)
        bounds = forward_activations(exact, region, self.free)
        if self.backward:
            bounds = bound_activations(exact, region, budget, known=bounds.activations)
        output = self.linear.query.network.output
        shape = self.linear.query.network.nodes[output].shape
        rows = self.rows.reshape(1, len(self.rows), *shape)
        rows = rows.expand(len(boxes), *rows.shape[1:])
        linear = BackwardPass(exact, bounds.activations, bounds.values).run(output, rows)
        value, rounding = least(region, linear.coefficients)
        total = value + linear.constant + self.offsets
        slack = 2 * (rounding + linear.rounding) + 4 * FLOAT64_UNIT * total.abs()
        coefficients = linear.coefficients.flatten(2)
        constant = linear.constant + self.offsets + self._fixed_part(coefficients)
        planes = coefficients[..., self.free]
        lower, blame = _proved(total, slack), torch.zeros_like(planes)
        return RowPlanes(planes, constant, slack, lower, boxes.signs, blame)

    def margins(self, points: Float[Tensor, "M F"]) -> None:
        """See `BoxBounder`."""

    def _region(self, boxes: Boxes) -> InputSet:
        count = len(boxes)
        shape = (count, *self.linear.query.network.input_shape)
        whole = self.linear.exact_region
        lower = whole.lower.flatten().repeat(count, 1)
        upper = whole.upper.flatten().repeat(count, 1)
        lower[:, self.free], upper[:, self.free] = boxes.lower, boxes.upper
        return replace(whole, lower=lower.reshape(shape), upper=upper.reshape(shape))

    def _fixed_part(self, coefficients: Tensor) -> Tensor:
        """What the inputs that are not free add to each plane, `[B, Q]`."""
        fixed = self.linear.exact_region.lower.flatten().clone()
        fixed[self.free] = 0
        return coefficients @ fixed


def _proved(total: Tensor, slack: Tensor) -> Tensor:
    return torch.where(torch.isfinite(total - slack), total - slack, -torch.inf)


def _backward_pays(network: Network, free: int) -> bool:
    """Compare the products both ways need for one box, every neuron undecided."""
    forward, backward = 0, 0
    feeding = set(network.pre_activations)
    for index, node in enumerate(network.nodes):
        if index and not node.is_activation:
            forward += affine_entries(node, [network.nodes[p] for p in node.inputs])
        if index in feeding:
            backward += 2 * node.size * forward
    return backward <= _WORTH * (free + 2) * forward
