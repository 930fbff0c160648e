"""A torch module becomes a network by way of torch's own ONNX export."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from closegap.core.errors import ModelError
from closegap.frontend.load import loads
from closegap.graph.network import Network

__all__ = ["from_torch"]


def from_torch(module: nn.Module, example: Tensor) -> Network:
    """Export a module in evaluation mode and read the ONNX bytes back.

    The batch axis stays free where the module allows it. The module's own training modes are put
    back afterwards.

    Args:
        module: one float32 tensor in, one tensor out, a batch axis in front of both.
        example: an input with its batch axis, on any device; its values do not matter.

    Raises:
        ModelError: torch cannot export the module; the text is torch's first line.
        UnsupportedOpError: the exported graph holds an operator the front end does not know.
    """
    source = f"<torch {type(module).__name__}>"
    place = next((p.device for p in module.parameters()), example.device)
    inputs = example.detach().to(place)
    reasons = []
    with _evaluating(module), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporters warn about themselves
        for export in (_by_trace, _by_graph_capture):
            try:
                return loads(export(module, inputs), source)
            except ModelError:
                raise
            except Exception as error:  # torch's export errors share no base class
                reasons.append(next(iter(str(error).splitlines()), type(error).__name__))
    raise ModelError(f"{source}: torch cannot export it: {reasons[0]}")


def _by_trace(module: nn.Module, inputs: Tensor) -> bytes:
    """The exporter that runs the module once; under a second for any module."""
    stream = io.BytesIO()
    torch.onnx.export(
        module,
        (inputs,),
        stream,  # type: ignore[arg-type]  # this exporter writes to any stream
        dynamo=False,
        input_names=["input"],
        output_names=["output"],
        dynamic_axes={"input": {0: "N"}, "output": {0: "N"}},
    )
    return stream.getvalue()


def _by_graph_capture(module: nn.Module, inputs: Tensor) -> bytes:
    """The exporter that will outlive the other; takes several seconds to start."""
    program = torch.onnx.export(
        module,
        (inputs,),
        dynamo=True,
        verbose=False,
        external_data=False,
        dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
    )
    if program is None:
        raise RuntimeError("the exporter gave nothing")
    return bytes(program.model_proto.SerializeToString())


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
