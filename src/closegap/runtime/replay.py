"""The judge of witnesses: the ONNX file in onnxruntime, beside the IR in float64."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from closegap.core.bracket import Witness
from closegap.core.errors import ModelError
from closegap.graph.network import Network
from closegap.runtime.torch_network import TorchNetwork
from closegap.specs.query import Query
from closegap.specs.region import contains

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

__all__ = ["Replayer"]


class Replayer:
    """Evaluates inputs on the ONNX file (float32, onnxruntime) and in float64.

    Args:
        network: holds the ONNX bytes.
        threads: of onnxruntime.
    """

    def __init__(self, network: Network, *, threads: int = 1) -> None:
        self.network = network
        self._threads = threads

    @cached_property
    def _session(self) -> InferenceSession:
        import onnxruntime  # heavy: only where a witness is replayed

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            return onnxruntime.InferenceSession(
                self.network.onnx_bytes, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's errors share no base class
            text = str(error).splitlines()[0]
            raise ModelError(f"{self.network.source}: onnxruntime cannot load it: {text}") from None

    @cached_property
    def _exact(self) -> TorchNetwork:
        return TorchNetwork(self.network, dtype=torch.float64)

    def outputs_float32(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Outputs `[B, C]` of inputs `[B, *input_shape]` by onnxruntime."""
        signature = self._session.get_inputs()[0]
        if self.network.batch is None:
            return self._run(signature.name, inputs).reshape(len(inputs), -1)
        # One at a time, in the file's own shape: its batch axis may be missing or named.
        shape = tuple(d if isinstance(d, int) and d > 0 else 1 for d in signature.shape)
        rows = [self._run(signature.name, one.reshape(shape)).reshape(1, -1) for one in inputs]
        return np.concatenate(rows)

    def _run(self, name: str, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(self._session.run(None, {name: inputs})[0], dtype=np.float32)

    def outputs_float64(self, inputs: NDArray[np.float32]) -> NDArray[np.float64]:
        """Outputs `[B, C]` of inputs `[B, *input_shape]` by the IR in float64."""
        with torch.no_grad():
            return np.asarray(self._exact(self._exact.tensor(inputs)).numpy(), dtype=np.float64)

    def witness(self, query: Query, point: NDArray[np.float32]) -> Witness | None:
        """Replay one point.

        Returns:
            the evaluated point, or `None` when it lies outside the region or an output is not
            finite. `breaks` is True iff both evaluations break the property.
        """
        if point.dtype != np.float32 or not contains(query.region, point):
            return None
        single = self.outputs_float32(point[None])
        double = self.outputs_float64(point[None])
        if not (np.isfinite(single).all() and np.isfinite(double).all()):
            return None
        margin32, margin64 = (float(query.prop.margins(o)[0]) for o in (single, double))
        return Witness(
            input=point.copy(),
            outputs_float32=single[0],
            outputs_float64=double[0],
            margin_float32=margin32,
            margin_float64=margin64,
            breaks=query.prop.broken_by(margin32) and query.prop.broken_by(margin64),
        )
