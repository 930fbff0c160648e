"""Where lanes begin that do not begin at their image: the best of some random changes of it."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Bool
from torch import Tensor

from closegap.attacks.minimal.lanes import Lanes, lanes_of, margins

__all__ = ["thrown"]

#: Random changes that a lane chooses from.
_CHANGES = 24


def thrown(lanes: Lanes, chosen: Bool[Tensor, "L"], several: int, random: torch.Generator) -> Lanes:
    """The chosen lanes begin at random changes of their images, the others where they did.

    A change draws new values for a random share of the pixels, every second time from the box's
    ends alone; a lane takes the change of the least loss. At the image itself a network may have no
    gradient, for want of active units.

    Args:
        lanes: all of them, those of a query together.
        chosen: which.
        several: lanes a query; all queries share their draws.
        random: of all draws.
    """
    rows = chosen.nonzero()[:, 0]
    place, size = rows % several, lanes.images.shape[1]
    own = lanes_of(replace(lanes, counted=lanes.wanted), rows)
    starts = own.starts
    least = torch.full_like(own.slack, torch.inf)
    for change in range(_CHANGES):
        draws = torch.rand(2, several, size, generator=random, device=random.device)
        shares = torch.rand(several, 1, generator=random, device=random.device)
        values = draws[0].round() if change % 2 else draws[0]
        parts = (draws[1, :, : own.pixels] < shares)[:, own.pixel_of]
        points = torch.where(parts[place], values[place], own.images)
        seen = margins(own, points)
        starts = torch.where((seen < least)[:, None], points, starts)
        least = torch.minimum(seen, least)
    return replace(lanes, starts=lanes.starts.index_copy(0, rows, starts))
