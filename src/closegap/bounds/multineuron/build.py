"""From groups of neurons to hulls: octahedra, their vertices, and rows that cut something off."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from closegap.bounds.backward import BackwardPass
from closegap.bounds.multineuron.cuts import HullCuts
from closegap.bounds.multineuron.hulls import VertexHulls
from closegap.bounds.multineuron.octahedra import octahedra
from closegap.bounds.multineuron.separation import normals
from closegap.bounds.multineuron.vertices import enumerate_vertices
from closegap.bounds.optimise import RowOptimiser
from closegap.bounds.regions import InputSet
from closegap.core.budget import Budget
from closegap.core.numerics import FLOAT64_UNIT, TINY, VIOLATION
from closegap.graph import ops

__all__ = ["lifted_hulls", "make_hulls", "separating_cuts"]

#: Points separated from all hulls of a layer at a time.
_POINTS = 16


def make_hulls(
    bounder: BackwardPass,
    region: InputSet,
    activation: int,
    groups: Int[np.ndarray, "G k"],
    budget: Budget,
    optimiser: RowOptimiser | None = None,
) -> VertexHulls:
    """The hulls of groups of one layer's neurons.

    Args:
        bounder: float64, with intervals for the rounding; one domain.
        region: in the same dtype.
        activation: a ReLU or leaky ReLU.
        groups: flat indices of neurons with finite bounds.
        budget: for the octahedra; what it cuts short is looser.
        optimiser: see `octahedra`.
    """
    graph = bounder.network.network
    node = graph.nodes[activation]
    slope = node.op.slope if isinstance(node.op, ops.LeakyRelu) else 0.0
    limits = octahedra(bounder, region, node.inputs[0], groups, budget, optimiser)
    return lifted_hulls(limits, groups, slope, (node.inputs[0], activation), node.shape)


def lifted_hulls(
    limits: Float[np.ndarray, "G directions"],
    groups: Int[np.ndarray, "G k"],
    slopes: float | Float[np.ndarray, "G k"],
    nodes: tuple[int, int],
    shape: tuple[int, ...],
) -> VertexHulls:
    """The hulls of `(z, max(z, slope z))` over octahedra.

    Args:
        limits: of each group, in the order of `directions`; the octahedra hold at least one point.
        groups: flat indices of neurons.
        slopes: below zero, from zero to one.
        nodes: numbers of the neurons' inputs and outputs.
        shape: of both.

    Raises:
        ValueError: an octahedron has no point.
    """
    vertices, tolerance = enumerate_vertices(limits, groups.shape[1])
    below = np.broadcast_to(np.asarray(slopes, dtype=np.float64), groups.shape)[:, None]
    if below.any():  # products, then, each rounded
        tolerance = tolerance + FLOAT64_UNIT * np.abs(vertices).max(axis=(1, 2), initial=0.0)
    lifted = np.concatenate([vertices, np.maximum(vertices, below * vertices)], axis=2)
    return VertexHulls(
        feed=nodes[0],
        activation=nodes[1],
        shape=shape,
        members=torch.as_tensor(groups),
        lifted=torch.as_tensor(lifted),
        tolerance=torch.as_tensor(tolerance),
    )


def separating_cuts(
    hulls: VertexHulls,
    inputs: Float[Tensor, "M N"],
    outputs: Float[Tensor, "M N"],
    prices: Float[Tensor, "M N"],
    most: int,
) -> HullCuts | None:
    """For each of M points, rows that it violates, one a group; `None` where it violates none.

    A row is scaled to what the bound pays at its group, so that one is a large multiplier anywhere.

    Args:
        hulls: of one layer.
        inputs: values of the layer's neurons, float64.
        outputs: likewise, of the activation.
        prices: what the bound that rests at the point pays at each neuron for a unit of its output.
        most: rows for each point at most, those that promise most.
    """
    members, points = hulls.members, len(inputs)
    reach = hulls.lifted.abs().amax(dim=(1, 2)).repeat(points)
    resting = torch.cat([inputs[:, members], outputs[:, members]], dim=2)
    parts = [
        normals(p.flatten(0, 1), hulls.lifted.repeat(len(p), 1, 1)) for p in resting.split(_POINTS)
    ]
    off = torch.cat(parts)
    distance = torch.linalg.vector_norm(off, dim=1)
    paid = prices[:, members].mean(dim=2).flatten()
    worth = (distance * paid * (distance > VIOLATION * reach)).reshape(points, -1)
    chosen = worth.argsort(dim=1, descending=True)[:, :most]
    point, rank = (worth.gather(1, chosen) > 0).nonzero(as_tuple=True)
    owner = chosen[point, rank]
    if not len(owner):
        return None
    flat = point * len(members) + owner
    unit = paid[flat].clamp(min=TINY) / off[flat].abs().amax(dim=1)
    return HullCuts.of(hulls, owner, off[flat] * unit[:, None])
