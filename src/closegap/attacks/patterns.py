"""Activation patterns: which neurons are on, as bits.

Bit j of a pattern is 1 iff the pre-activation of neuron j is at least 0. The neurons are the
entries of `Network.pre_activations` that feed a ReLU, a leaky ReLU or a sign, in that order: for
these the sign of the pre-activation names the affine piece the point lies in.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt64
from numpy.typing import NDArray
from torch import Tensor

from closegap.graph.network import Network
from closegap.graph.ops import LeakyRelu, Relu, Sign
from closegap.runtime.torch_network import TorchNetwork

__all__ = ["activation_patterns", "hamming", "pack", "phased_nodes", "unpack"]

_WORD = 64


def phased_nodes(network: Network) -> tuple[int, ...]:
    """Indices of the nodes whose entries are a pattern's neurons, in order."""
    parents = {
        network.nodes[i].inputs[0]
        for i in network.activations
        if isinstance(network.nodes[i].op, Relu | LeakyRelu | Sign)
    }
    return tuple(sorted(parents))


def activation_patterns(
    network: TorchNetwork, points: Float[np.ndarray, "M ..."]
) -> Bool[np.ndarray, "M N"]:
    """The patterns of inputs `[M, *input_shape]`, evaluated in the network's own dtype."""
    nodes = phased_nodes(network.network)
    if not nodes:
        return np.zeros((len(points), 0), dtype=np.bool_)
    with torch.no_grad():
        values = network.values(network.tensor(points))
        bits: Tensor = torch.cat([values[i].flatten(1) >= 0 for i in nodes], dim=1)
    return np.asarray(bits.cpu().numpy(), dtype=np.bool_)


def pack(patterns: Bool[np.ndarray, "M N"]) -> UInt64[np.ndarray, "M words"]:
    """The bits in words of 64, zero-padded."""
    count = patterns.shape[1]
    padded = np.pad(patterns, ((0, 0), (0, -count % _WORD)))
    if not padded.shape[1]:
        return np.zeros((len(patterns), 0), dtype=np.uint64)
    return np.packbits(padded, axis=1, bitorder="little").view(np.uint64)


def unpack(words: UInt64[np.ndarray, "M words"], count: int) -> Bool[np.ndarray, "M N"]:
    """The inverse of `pack`, for patterns of `count` neurons."""
    if not words.shape[1]:
        return np.zeros((len(words), count), dtype=np.bool_)
    octets = np.ascontiguousarray(words).view(np.uint8)
    return np.unpackbits(octets, axis=1, count=count, bitorder="little").astype(np.bool_)


def hamming(
    words: UInt64[np.ndarray, "M words"], word: UInt64[np.ndarray, "words"]
) -> NDArray[np.int64]:
    """In how many bits each row of `words` differs from `word`: `[M]`."""
    return np.asarray(np.bitwise_count(words ^ word).sum(axis=1, dtype=np.int64))
