"""Which neurons of an image are bounded together: those of a tile, so that their windows are small.

Small tiles make small windows, but many passes with few rows each. The side of the tiles is the one
whose estimated cost is least.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import TypeAlias

import torch
from torch import Tensor

from closegap.bounds.windows import Window, plan_windows, products
from closegap.graph.network import Network
from closegap.runtime.torch_network import TorchNetwork

__all__ = ["Chunk", "group_by_tile", "unit_rows"]

#: Neurons as (domain, neuron) pairs `[pairs, 2]`, and the windows their rows see.
Chunk: TypeAlias = tuple[Tensor, Mapping[int, Window]]

_SIDES = (1, 2, 4, 8, 16)
#: What one op of a pass costs whatever its size, counted in multiplications.
_PASS = 2_000_000


def group_by_tile(network: Network, start: int, places: Tensor) -> list[Chunk]:
    """Group the neurons of node `start`; one group without windows where tiles do not pay.

    Args:
        network: the graph.
        start: the node of the neurons.
        places: (domain, neuron) pairs, of one domain.
    """
    shape = network.nodes[start].shape
    undivided: list[Chunk] = [(places, {})]
    if len(shape) != 3 or not len(places):
        return undivided
    best, least = undivided, 2 * len(places) * products(network, start, {})[0]
    for side in _SIDES:
        if side >= max(shape[1:]):
            break
        chunks = _tiles(network, start, places, side)
        cost = sum(
            2 * len(part) * products(network, start, plan)[0] + (start + 1) * _PASS
            for part, plan in chunks
        )
        if cost < least:
            best, least = chunks, cost
    return best


def _tiles(network: Network, start: int, places: Tensor, side: int) -> list[Chunk]:
    """One group for each tile that has neurons, with windows around what they see."""
    _, height, width = network.nodes[start].shape
    pixel = places[:, 1] % (height * width)
    row, column = pixel // width, pixel % width
    tile = (row // side) * width + column // side
    chunks: list[Chunk] = []
    for name in torch.unique(tile):
        inside = tile == name
        rows, columns = row[inside], column[inside]
        top, left = int(rows.min()), int(columns.min())
        window = Window(top, left, int(rows.max()) - top + 1, int(columns.max()) - left + 1)
        chunks.append((places[inside], plan_windows(network, start, window)))
    return chunks


def unit_rows(network: TorchNetwork, index: int, neurons: Tensor, window: Window | None) -> Tensor:
    """Rows with 1 at one neuron of a node each, `[neurons, *shape]`, on the window if there is one.

    Args:
        network: whose dtype and device they take.
        index: the node.
        neurons: flat places in the node.
        window: holds them all.
    """
    shape, count = network.network.nodes[index].shape, len(neurons)
    if window is not None:
        pixel = neurons % (shape[1] * shape[2])
        row, column = pixel // shape[2] - window.top, pixel % shape[2] - window.left
        channel = neurons // (shape[1] * shape[2])
        shape = (shape[0], window.height, window.width)
        neurons = (channel * shape[1] + row) * shape[2] + column
    rows = torch.zeros(count, prod(shape), dtype=network.dtype, device=network.device)
    rows[torch.arange(count), neurons] = 1
    return rows.reshape(count, *shape)
