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

#: How the tracing exporter says that it followed the example through a branch.
_BRANCHED = "Converting a tensor to a Python boolean"


def from_torch(module: nn.Module, example: Tensor) -> Network:
    """Export a module in evaluation mode and read the ONNX bytes back.

    The batch axis stays free where the module allows it. The module's own training modes are put
    back afterwards.

    Args:
        module: one float32 tensor in, one tensor out, a batch axis in front of both.
        example: an input with its batch axis, on any device; its values do not matter.

    Raises:
        ModelError: the module fails on the example, or torch cannot export it: because what it
            does depends on the input's values, say. The text is torch's first line.
        UnsupportedOpError: the exported graph holds an operator the front end does not know.
    """
    source = f"<torch {type(module).__name__}>"
    weight = next((p for p in module.parameters() if p.is_floating_point()), None)
    inputs = example.detach().float() if weight is None else example.detach().to(weight)
    reasons = []
    with _evaluating(module), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporters warn about themselves
        _run(module, inputs, source)
        for export in (_by_trace, _by_graph_capture):
            try:
                return loads(export(module, inputs), source)
            except ModelError:
                raise
            except Exception as error:  # torch's export errors share no base class
                reasons.append(_first_line(error))
    raise ModelError(f"{source}: torch cannot export it: {reasons[0]}")


def _run(module: nn.Module, inputs: Tensor, source: str) -> None:
    """Run the module once: what it cannot do needs no exporter."""
    try:
        with torch.no_grad():
            module(inputs)
    except Exception as error:  # whatever the module raises
        shape = list(inputs.shape)
        text = f"it fails on an input of shape {shape}: {_first_line(error)}"
        raise ModelError(f"{source}: {text}") from None


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _by_trace(module: nn.Module, inputs: Tensor) -> bytes:
    """The exporter that runs the module once; under a second for any module."""
    stream = io.BytesIO()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        torch.onnx.export(
            module,
            (inputs,),
            stream,  # type: ignore[arg-type]  # this exporter writes to any stream
            dynamo=False,
            input_names=["input"],
            output_names=["output"],
            dynamic_axes={"input": {0: "N"}, "output": {0: "N"}},
        )
    if any(_BRANCHED in str(warning.message) for warning in said):
        raise RuntimeError("it branches on values of tensors, and a file holds one branch only")
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
