"""One-operator models, and the comparison with onnxruntime that every operator must pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import torch
from hypothesis import HealthCheck, settings
from onnx import helper

from closegap.core.numerics import IR_ABSOLUTE_TOLERANCE, IR_RELATIVE_TOLERANCE
from closegap.frontend import loads
from closegap.graph.network import Network
from closegap.runtime.replay import Replayer
from closegap.runtime.torch_network import TorchNetwork
from closegap.testing.networks import onnx_model

EXAMPLES = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


def node(op: str, inputs: Sequence[str], output: str = "output", **attributes: Any) -> Any:
    name = f"{op}_node" if output == "output" else f"{op}_{output}"
    return helper.make_node(op, list(inputs), [output], name=name, **attributes)


def model(
    nodes: Sequence[onnx.NodeProto],
    shape: Sequence[int | str],
    weights: dict[str, Any] | None = None,
    opset: int = 17,
) -> bytes:
    arrays = {name: np.asarray(value) for name, value in (weights or {}).items()}
    return onnx_model(nodes, arrays, shape, opset=opset)


def assert_agrees(data: bytes, seed: int = 0, count: int = 4, inputs: Any = None) -> Network:
    """The network as read computes what onnxruntime computes, in float32 and float64."""
    network = loads(data, "test model", check=False)
    rng = np.random.default_rng(seed)
    if inputs is None:
        inputs = rng.normal(size=(count, *network.input_shape))
    points = np.asarray(inputs, dtype=np.float32)
    wanted = Replayer(network).outputs_float32(points)
    assert np.isfinite(wanted).all()
    allowed = IR_RELATIVE_TOLERANCE * np.abs(wanted).max(initial=0) + IR_ABSOLUTE_TOLERANCE
    for dtype in (torch.float32, torch.float64):
        own = TorchNetwork(network, dtype=dtype)
        for value, ir in zip(own.values(own.tensor(points)), network.nodes, strict=True):
            assert tuple(value.shape[1:]) == ir.shape, f"{ir.name} claims {ir.shape}"
        got = own(own.tensor(points)).numpy()
        assert got.shape == wanted.shape
        assert np.abs(got - wanted).max(initial=0) <= allowed
    return network


def runs(data: bytes) -> bool:
    """Does onnxruntime accept the model at all?"""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        signature = session.get_inputs()[0]
        shape = [d if isinstance(d, int) else 1 for d in signature.shape]
        session.run(None, {signature.name: np.ones(shape, dtype=np.float32)})
    except Exception:
        return False
    return True
