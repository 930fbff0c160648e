"""Images in the order of a network's input, and a word on what was taken for granted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from closegap.data import DataSet
    from closegap.graph.network import Network
    from closegap.specs.layout import Layout

__all__ = ["fitted", "order_of"]


def fitted(data: DataSet, network: Network, layout: Layout | None) -> DataSet:
    """The data set in the network's input shape; a line on stderr where an order was assumed.

    Args:
        data: as it was loaded.
        network: whose input.
        layout: as it was asked for.

    Raises:
        DataError: the images do not fit.
    """
    from closegap.data import fit_to_network
    from closegap.specs.layout import told_layout, unsaid_layout

    if said := unsaid_layout(network, layout):
        click.echo(said, err=True)
    order = layout or told_layout(network)
    return fit_to_network(
        data,
        network.input_shape,
        classes=network.output_size,
        channels_last=None if order is None else order == "hwc",
    )


def order_of(network: Network, layout: Layout | None) -> Layout | None:
    """What a run keeps of the order of flat inputs; `None` where it is the one without a word.

    Pictures are drawn from records, which know no network.

    Args:
        network: whose input.
        layout: as it was asked for.
    """
    from closegap.specs.layout import told_layout

    return layout or ("hwc" if told_layout(network) == "hwc" else None)
