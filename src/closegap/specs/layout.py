"""Which entries of a network's input are one pixel: what its shape, its graph and the user say."""

from __future__ import annotations

from typing import Literal, TypeAlias

from closegap.graph import ops
from closegap.graph.network import Network
from closegap.specs.objectives import Grid

__all__ = ["Layout", "picture_of", "told_layout", "unsaid_layout"]

#: Of a flat input: one channel after the other, or one pixel after the other.
Layout: TypeAlias = Literal["chw", "hwc"]

_CHANNELS = (1, 3, 4)


def told_layout(network: Network) -> Layout | None:
    """The order of a flat input, where the network turns it into a picture first; else `None`."""
    if len(network.input_shape) != 1:
        return None
    for node in network.nodes[1:]:
        if not isinstance(node.op, ops.Scale | ops.Shift | ops.Reshape):
            return None
        shape = tuple(node.shape)
        if len(shape) == 3:
            first, last = shape[0] in _CHANNELS, shape[2] in _CHANNELS
            return None if first == last else "chw" if first else "hwc"
    return None


def picture_of(network: Network, layout: Layout | None = None) -> Grid:
    """The picture in a network's input.

    Args:
        network: whose input.
        layout: of flat inputs; what the network tells where it is `None`, else channels first.
    """
    return Grid.of(network.input_shape, channels_last=(layout or told_layout(network)) == "hwc")


def unsaid_layout(network: Network, layout: Layout | None) -> str:
    """What was taken for granted of a flat colour picture, for people; empty if nothing was."""
    grid = picture_of(network, layout)
    flat = len(network.input_shape) == 1
    if grid.channels == 1 or not flat or layout is not None or told_layout(network) is not None:
        return ""
    return (
        f"flat inputs are taken for {grid.height}x{grid.width} pictures of {grid.channels} "
        "channels, one channel after the other; --layout hwc takes one pixel after the other"
    )
