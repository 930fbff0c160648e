"""Shortlists: the few units of each subdomain whose children are worth a real bound."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["best_of_all", "best_of_each_layer"]


def best_of_all(tables: Sequence[Float[Tensor, "B U"]], count: int) -> Int[Tensor, "B candidates"]:
    """The `count` best units of each table, without repeats; -1 where there is none."""
    picked = []
    for scores in tables:
        values, places = scores.topk(min(count, scores.shape[1]), dim=1)
        picked.append(torch.where(values > 0, places, -1))
    return _without_repeats(torch.cat(picked, dim=1))


def best_of_each_layer(
    tables: Sequence[Float[Tensor, "B U"]], layer: Int[Tensor, " U"]
) -> Int[Tensor, "B candidates"]:
    """The best unit of each layer by each table, without repeats; -1 where there is none."""
    picked = []
    for number in range(int(layer.max()) + 1 if len(layer) else 0):
        units = (layer == number).nonzero()[:, 0]
        for scores in tables:
            values, places = scores[:, units].max(dim=1)
            picked.append(torch.where(values > 0, units[places], -1))
    return _without_repeats(torch.stack(picked, dim=1))


def _without_repeats(units: Tensor) -> Tensor:
    same = units[:, :, None] == units[:, None, :]
    earlier = torch.ones_like(same[0]).tril(diagonal=-1)
    return torch.where((same & earlier).any(dim=2), -1, units)
