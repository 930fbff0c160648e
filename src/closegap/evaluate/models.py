"""Networks a worker has loaded, kept for the tasks to come; and the property it has read."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from closegap.core.errors import ModelError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from closegap.graph.network import Network
    from closegap.specs.vnnlib import Spec

__all__ = ["LoadedModel", "ModelCache", "SpecCache"]


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


class SpecCache:
    """The property read last, until it is taken. Pickles empty: properties do not travel."""

    def __init__(self) -> None:
        self._held: tuple[str, Spec, float] | None = None

    def read(self, path: str) -> None:
        """Read a VNN-LIB file.

        Raises:
            SpecError: it cannot be used.
        """
        from closegap.specs.vnnlib import load_vnnlib  # numpy

        began = time.monotonic()
        self._held = path, load_vnnlib(path), time.monotonic() - began

    def take(self, path: str) -> tuple[Spec, float]:
        """The specification, read now if it was not yet, and the seconds that reading it took.

        Raises:
            SpecError: as `read`.
        """
        if self._held is None or self._held[0] != path:
            self.read(path)
        assert self._held is not None
        (_, spec, seconds), self._held = self._held, None
        return spec, seconds

    def __getstate__(self) -> dict[str, object]:
        return {"_held": None}
