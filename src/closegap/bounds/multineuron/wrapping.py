"""Rows that wrap the hull of a group of ReLUs: two for each direction of its octahedron.

From a face `e = b - c . z >= 0` of the octahedron multiples of `z_i` and `h_i = relu(z_i)` are
taken away, one neuron after the other, as much as leaves `e >= 0` at every vertex; in the order of
the neurons, and backwards. These few rows do most of what all facets of the hull would, of which
there are more than a program can carry.

What comes out are weights. Their limits are computed anew over the vertices
(`bounds/multineuron/cuts.py`), so that rounding here costs tightness and nothing else.

Source: Ma et al., ReLU Hull Approximation, POPL 2024.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from closegap.bounds.multineuron.cuts import HullCuts
from closegap.bounds.multineuron.hulls import VertexHulls
from closegap.bounds.multineuron.vertices import directions
from closegap.core.numerics import TINY, VERTEX_CELL

__all__ = ["wrapping_rows"]


def wrapping_rows(hulls: VertexHulls) -> HullCuts:
    """Rows over all groups, in order of the groups: two for each direction, some may be alike.

    Args:
        hulls: of ReLUs; of leaky ones rows hold as well, and are loose.
    """
    size = hulls.size
    vertices = hulls.lifted[..., :size]
    faces = torch.as_tensor(directions(size))
    values = torch.einsum("gvk,fk->gfv", vertices, faces)
    room = values.amax(dim=2, keepdim=True) - values
    natural = tuple(range(size))
    found = torch.cat([_wrapped(vertices, room, faces, o) for o in (natural, natural[::-1])], dim=1)
    owner = torch.arange(len(found)).repeat_interleave(found.shape[1])
    return HullCuts.of(hulls, owner, found.flatten(0, 1))


def _wrapped(
    vertices: Float[Tensor, "G V k"],
    room: Float[Tensor, "G F V"],
    faces: Float[Tensor, "F k"],
    order: tuple[int, ...],
) -> Float[Tensor, "G F W"]:
    """Weights of `(z, h)` in each row, the neurons taken in an order."""
    inner = -faces.expand(len(vertices), -1, -1).clone()
    outer = torch.zeros_like(inner)
    least = VERTEX_CELL * vertices.abs().amax(dim=(1, 2)).clamp(min=TINY)[:, None, None]
    for member in order:
        value = vertices[:, None, :, member]
        share = room / value.abs().clamp(min=TINY)
        on, off = (
            share.where(side, torch.inf).amin(dim=2) for side in (value > least, value < -least)
        )
        on, off = (torch.where(part.isfinite(), part, 0.0) for part in (on, off))
        outer[:, :, member] -= on + off
        inner[:, :, member] += off
        taken = (on + off)[..., None] * value.clamp(min=0) - off[..., None] * value
        room = (room - taken).clamp(min=0)
    return torch.cat([inner, outer], dim=2)
