"""Convolutions and their adjoints, one- and two-dimensional."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from closegap.frontend.lowering.window import Window, spatial_input, window_of
from closegap.frontend.trace import Call, Shape, Traced, Value
from closegap.graph import ops

__all__ = ["CONVOLUTION_LOWERINGS", "Filter", "convolve"]

Array = NDArray[np.float64]
Filter = tuple[Array, Array, int]


def convolve(call: Call, value: Traced, window: Window, kernel: Filter, out: Shape) -> Traced:
    """Cross-correlate `[batch, C, *spatial]`; `kernel` is (weight, bias, groups).

    Args:
        call: the node being lowered.
        value: with one or two spatial axes, batch in front.
        window: pads may exceed what is needed for `out`.
        kernel: weight `[C_out, C_in / groups, *kernel]`, bias `[C_out]`, groups.
        out: spatial shape of the result.
    """
    weight, bias, groups = kernel
    whole = _lift(call, value)
    lifted = window.lifted()
    op = ops.Conv(
        weight.reshape(*weight.shape[:2], *lifted.kernel),
        bias,
        _pair(lifted.stride),
        (*_pair(lifted.before), *_pair(lifted.after)),
        _pair(lifted.dilation),
        groups,
    )
    lifted_out = (*whole.shape[:1], len(weight), *((1,) * (2 - len(out))), *out)
    result = call.emit(op, [whole], lifted_out, 0)
    return call.relabel(result, (result.shape[0], len(weight), *out), 0)


def _lift(call: Call, value: Traced) -> Traced:
    """One spatial axis becomes two, the first of length 1."""
    batch, channels, *spatial = value.shape
    if len(spatial) > 2:
        call.fail(
            f"it has {len(spatial)} spatial axes",
            "only one- and two-dimensional convolutions and pools are supported",
        )
    return call.relabel(value, (batch, channels, *((1,) * (2 - len(spatial))), *spatial), 0)


def _pair(values: Shape) -> tuple[int, int]:
    return int(values[0]), int(values[1])


def _bias(call: Call, channels: int) -> Array:
    return call.weights(2) if call.has(2) else np.zeros(channels)


def _conv(call: Call) -> Value:
    value = spatial_input(call)
    weight, groups = call.weights(1), int(call.attribute("group", 1))
    window = window_of(call, value.shape[2:], weight.shape[2:])
    if weight.shape[1] * groups != value.shape[1] or len(weight) % groups:
        call.fail(
            f"a kernel {list(weight.shape)} of {groups} groups meets {value.shape[1]} channels",
            "repair the model",
        )
    out = window.output(value.shape[2:])
    if min(out) < 1:
        call.fail(f"its input {list(value.shape)} is smaller than its kernel", "repair the model")
    return convolve(call, value, window, (weight, _bias(call, len(weight)), groups), out)


def _conv_transpose(call: Call) -> Value:
    value = spatial_input(call)
    weight, groups = call.weights(1), int(call.attribute("group", 1))
    rank = len(value.shape) - 2
    extra = tuple(call.attribute("output_padding") or (0,) * rank)
    window, out = _transpose_window(call, value.shape[2:], weight.shape[2:], extra)
    if len(weight) != value.shape[1]:
        call.fail(f"a kernel {list(weight.shape)} meets {value.shape[1]} channels", "repair it")
    whole = _lift(call, value)
    lifted = window.lifted()
    channels = weight.shape[1] * groups
    reach = [
        (spatial - 1) * s + e - b - a
        for spatial, s, e, b, a in zip(
            value.shape[2:], window.stride, window.extents, window.before, window.after, strict=True
        )
    ]
    behind = tuple(o - r for o, r in zip(out, reach, strict=True))
    op = ops.ConvTranspose(
        weight.reshape(*weight.shape[:2], *lifted.kernel),
        _bias(call, channels),
        _pair(lifted.stride),
        (*_pair(lifted.before), *_pair(lifted.after)),
        _pair((0,) * (2 - rank) + behind),
        _pair(lifted.dilation),
        groups,
    )
    shape = (whole.shape[0], channels, *((1,) * (2 - rank)), *out)
    return call.relabel(call.emit(op, [whole], shape, 0), (shape[0], channels, *out), 0)


def _transpose_window(
    call: Call, spatial: Shape, kernel: Shape, extra: Shape
) -> tuple[Window, Shape]:
    """The window with the pads that give the wanted output shape, and that shape.

    Source: the ONNX operator ConvTranspose: `out = stride * (in - 1) + output_padding + extent -
    pads`; with `output_shape` or SAME the pads follow from it, the odd one behind for SAME_UPPER
    and in front otherwise.
    """
    mode = call.attribute("auto_pad", "NOTSET")
    wanted = call.attribute("output_shape")
    pads = call.attribute("pads") or (0,) * (2 * len(spatial))
    rank = len(spatial)
    stride = tuple(call.attribute("strides") or (1,) * rank)
    dilation = tuple(call.attribute("dilations") or (1,) * rank)
    base = Window(tuple(kernel), stride, dilation, tuple(pads[:rank]), tuple(pads[rank:]))
    full = [stride[i] * (spatial[i] - 1) + extra[i] + base.extents[i] for i in range(rank)]
    if wanted:
        out = tuple(int(d) for d in wanted[-rank:])
    elif mode in ("SAME_UPPER", "SAME_LOWER"):
        out = tuple(min(spatial[i] * stride[i], full[i]) for i in range(rank))
    else:
        out = tuple(full[i] - base.before[i] - base.after[i] for i in range(rank))
        return base, out
    total = [max(0, full[i] - out[i]) for i in range(rank)]
    less, more = tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
    before, after = (less, more) if mode == "SAME_UPPER" else (more, less)
    return Window(base.kernel, stride, dilation, before, after), out


CONVOLUTION_LOWERINGS: dict[str, Callable[[Call], Value | tuple[Value, ...]]] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
}
