"""A binarized network's outputs, every sign decided exactly."""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float

from closegap.graph.binarized.first_layer import FirstSigns
from closegap.graph.binarized.products import ProductLayer, product_layer
from closegap.graph.binarized.records import BinarizedNetwork

__all__ = ["BinarizedForward"]


class BinarizedForward:
    """Evaluates a binarized network by exact sums.

    Args:
        network: in exact form.
    """

    def __init__(self, network: BinarizedNetwork) -> None:
        self.network = network

    @cached_property
    def first(self) -> FirstSigns:
        """The real layer, prepared when first used."""
        return FirstSigns(self.network.first)

    @cached_property
    def layers(self) -> tuple[ProductLayer, ...]:
        """The integer layers, prepared when first used."""
        return tuple(product_layer(layer) for layer in self.network.hidden)

    def __call__(self, inputs: Float[np.ndarray, "B ..."]) -> Float[np.ndarray, "B C"]:
        """Outputs at inputs of the network's shape or flat."""
        size = math.prod(self.network.input_shape)
        flat = inputs.reshape(len(inputs), size).astype(np.float64)
        return self.outputs(self.first(flat))

    def outputs(self, bits: Bool[np.ndarray, "B U"]) -> Float[np.ndarray, "B C"]:
        """Outputs from the signs of the first layer (True is +1)."""
        for layer in self.layers:
            bits = layer.signs(bits)
        return self.from_last(bits)

    def from_last(self, bits: Bool[np.ndarray, "B U"]) -> Float[np.ndarray, "B C"]:
        """Outputs from the signs of the last sign layer."""
        last = self.network.last
        sums = np.where(bits, 1.0, -1.0) @ last.weight.T + last.bias
        return np.asarray(last.factor * sums + last.offset)
