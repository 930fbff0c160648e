"""Networks a worker has loaded, kept for the tasks to come."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from closegap.core.errors import ModelError
from closegap.graph.network import Network

__all__ = ["LoadedModel", "ModelCache"]


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A network, and the ONNX file it was read from as a function.

    Attributes:
        network: the IR.
        outputs: onnxruntime's float32 outputs `[B, C]` of inputs `[B, *input_shape]`.
    """

    network: Network
    outputs: Callable[[NDArray[np.float32]], NDArray[np.float32]]


class ModelCache:
    """The networks used last. Pickles as an empty cache: networks do not travel.

    Args:
        capacity: how many networks are kept.
    """

    def __init__(self, capacity: int = 4) -> None:
        self._capacity = capacity
        self._held: dict[str, LoadedModel] = {}

    def get(self, path: str, digest: str) -> LoadedModel:
        """The network at `path`, loaded at most once while it is among the last ones used.

        Raises:
            ModelError: it cannot be loaded, or is no longer the file with this digest.
        """
        model = self._held.pop(path, None) or self._load(path)
        if model.network.digest != digest:
            raise ModelError(f"{path}: the file changed since the run began; start a new run")
        self._held[path] = model
        while len(self._held) > self._capacity:
            del self._held[next(iter(self._held))]
        return model

    def __getstate__(self) -> dict[str, object]:
        return {"_capacity": self._capacity, "_held": {}}

    @staticmethod
    def _load(path: str) -> LoadedModel:
        # Heavy (torch, onnx, onnxruntime), and needed only where the work is done.
        from closegap.frontend import load
        from closegap.runtime.cache import replayer

        network = load(path)
        return LoadedModel(network, replayer(network).outputs_float32)
