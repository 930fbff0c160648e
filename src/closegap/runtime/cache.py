"""Compiled networks and onnxruntime sessions, kept for the networks used last."""

from __future__ import annotations

from functools import lru_cache

import torch

from closegap.graph.binarized.forward import BinarizedForward
from closegap.graph.binarized.recognise import recognise
from closegap.graph.network import Network
from closegap.runtime.replay import Replayer
from closegap.runtime.torch_network import TorchNetwork

__all__ = ["binarized", "compiled", "replayer"]

#: A run over a list of properties meets its networks in blocks; a few are enough.
_KEPT = 8


@lru_cache(maxsize=_KEPT)
def compiled(network: Network, dtype: torch.dtype, device: str = "cpu") -> TorchNetwork:
    """The network as a torch callable; made once for each network, dtype and device."""
    return TorchNetwork(network, dtype=dtype, device=device)


@lru_cache(maxsize=_KEPT)
def binarized(network: Network) -> BinarizedForward | str:
    """The network's exact binarized form, ready to evaluate, or why it has none."""
    form = recognise(network)
    return form if isinstance(form, str) else BinarizedForward(form)


@lru_cache(maxsize=_KEPT)
def replayer(network: Network) -> Replayer:
    """The judge of the network's witnesses; made once for each network."""
    return Replayer(network)
