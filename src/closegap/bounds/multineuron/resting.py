"""Where a bound is attained: the point of the relaxation that new constraints should cut off."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from closegap.bounds.backward import BackwardPass
from closegap.bounds.records import Parameters
from closegap.bounds.regions import InputSet, least

__all__ = ["RestingPoint", "resting_point"]


@dataclass(frozen=True, eq=False)
class RestingPoint:
    """What each of M bounds rests on, by node, float64 `[M, N]`; a guide, never a proof.

    Attributes:
        values: of nodes.
        incoming: by activation, the coefficient that enters its relaxation.
    """

    values: dict[int, Tensor]
    incoming: dict[int, Tensor]


def resting_point(
    bounder: BackwardPass,
    region: InputSet,
    rows: Float[Tensor, "B Q ..."],
    parameters: Parameters,
    activations: Iterable[int],
) -> RestingPoint:
    """The point of the relaxation at which bounds of the output are attained, `M = B Q`.

    The derivative of a dual bound with respect to a coefficient is the value it multiplies.

    Args:
        bounder: with the constraints that count.
        region: of the bounds, in the same dtype.
        rows: at the output.
        parameters: behind the bounds; splits are at zero.
        activations: at which inputs and outputs are wanted.
    """
    nodes = bounder.network.network.nodes
    wanted = list(activations)
    probes = {
        node: _probe(parameters.splits.get(node), (*rows.shape[:2], *nodes[node].shape), rows)
        for activation in wanted
        for node in (activation, nodes[activation].inputs[0])
    }
    linear = bounder.run(
        bounder.network.network.output,
        rows,
        Parameters(parameters.slopes, {**parameters.splits, **probes}, parameters.weights),
        keep_incoming=True,
    )
    value = least(region, linear.coefficients)[0] + linear.constant
    gradients = torch.autograd.grad(value.sum(), list(probes.values()))
    return RestingPoint(
        values={i: -_flat(g) for i, g in zip(probes, gradients, strict=True)},
        incoming={i: _flat(linear.incoming[i]) for i in wanted},
    )


def _probe(known: Tensor | None, shape: tuple[int, ...], like: Tensor) -> Tensor:
    start = like.new_zeros(shape) if known is None else known.to(like.dtype).expand(shape).clone()
    return start.requires_grad_()


def _flat(rows: Tensor) -> Tensor:
    """`[B, Q, *shape] -> [B Q, N]`, in float64."""
    return rows.detach().flatten(0, 1).flatten(1).double()
