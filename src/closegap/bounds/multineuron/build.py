"""From groups of neurons to hulls: octahedra, their vertices, and those that cut something off."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from closegap.bounds.backward import BackwardPass
from closegap.bounds.multineuron.hulls import VertexHulls
from closegap.bounds.multineuron.octahedra import octahedra
from closegap.bounds.multineuron.separation import normals
from closegap.bounds.multineuron.vertices import enumerate_vertices
from closegap.bounds.optimise import RowOptimiser
from closegap.bounds.regions import InputSet
from closegap.core.budget import Budget
from closegap.core.numerics import FLOAT64_UNIT, VIOLATION
from closegap.graph import ops

__all__ = ["make_hulls", "violated"]


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
    vertices, tolerance = enumerate_vertices(limits, groups.shape[1])
    if isinstance(node.op, ops.LeakyRelu):
        tolerance = tolerance + FLOAT64_UNIT * np.abs(vertices).max(axis=(1, 2), initial=0.0)
    lifted = np.concatenate([vertices, np.maximum(vertices, slope * vertices)], axis=2)
    return VertexHulls(
        feed=node.inputs[0],
        activation=activation,
        shape=node.shape,
        members=torch.as_tensor(groups),
        lifted=torch.as_tensor(lifted),
        tolerance=torch.as_tensor(tolerance),
    )


def violated(
    hulls: VertexHulls,
    inputs: Float[Tensor, "M N"],
    outputs: Float[Tensor, "M N"],
    prices: Float[Tensor, "N"],
) -> Int[Tensor, "kept"]:
    """Groups of which one of M points lies outside the hull, those that promise most first.

    Args:
        hulls: of one layer.
        inputs: values of the layer's neurons.
        outputs: likewise, of the activation.
        prices: what the bound pays at each neuron for a unit of its output.
    """
    members = hulls.members
    worth = torch.zeros(len(members), dtype=hulls.lifted.dtype)
    reach = hulls.lifted.abs().amax(dim=(1, 2))
    for z, h in zip(inputs, outputs, strict=True):
        off = normals(torch.cat([z[members], h[members]], dim=1), hulls.lifted)
        distance = torch.linalg.vector_norm(off, dim=1)
        outside = distance > VIOLATION * reach
        worth = torch.maximum(worth, distance * outside * prices[members].mean(dim=1))
    order = worth.argsort(descending=True)
    return order[worth[order] > 0]
