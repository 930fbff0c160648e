"""Pools: an average is a convolution, a maximum is a selection of windows and `Max`."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np
from numpy.typing import NDArray

from closegap.frontend.lowering.arithmetic import scale
from closegap.frontend.lowering.convolution import convolve
from closegap.frontend.lowering.window import Window, spatial_input, window_of
from closegap.frontend.trace import Call, Shape, Traced, Value
from closegap.graph import ops

__all__ = ["POOLING_LOWERINGS"]


def _pool_window(call: Call, value: Traced) -> tuple[Window, Shape]:
    spatial = value.shape[2:]
    window = window_of(call, spatial, tuple(call.attribute("kernel_shape")))
    _refuse_disputed(call, window)
    out = window.output(spatial, ceil=bool(call.attribute("ceil_mode", 0)))
    if min(out) < 1:
        call.fail(f"its input {list(value.shape)} is smaller than its window", "repair the model")
    return window, out


def _refuse_disputed(call: Call, window: Window) -> None:
    """Runtimes differ on SAME pools with dilation, or with a stride beyond the kernel."""
    if not str(call.attribute("auto_pad", "")).startswith("SAME"):
        return
    skips = any(s > k for s, k in zip(window.stride, window.kernel, strict=True))
    if skips or max(window.dilation) > 1:
        call.fail("runtimes disagree on its auto_pad with these strides", "use explicit pads")


def _positions(window: Window, out: Shape) -> tuple[NDArray[np.int64], ...]:
    """For every spatial axis `[windows, kernel entries]`: where the entries lie in the input."""
    return tuple(
        np.arange(out[i])[:, None] * window.stride[i]
        - window.before[i]
        + np.arange(window.kernel[i]) * window.dilation[i]
        for i in range(len(out))
    )


def _average_pool(call: Call) -> Value:
    value = spatial_input(call)
    spatial, channels = value.shape[2:], value.shape[1]
    window, out = _pool_window(call, value)
    counts = np.ones(out)
    whole = bool(call.attribute("count_include_pad", 0))
    for i, places in enumerate(_positions(window, out)):
        before, after = (window.before[i], window.after[i]) if whole else (0, 0)
        inside = ((places >= -before) & (places < spatial[i] + after)).sum(axis=1)
        counts *= inside.reshape([-1 if j == i else 1 for j in range(len(out))])
    reach = tuple(
        max(0, (out[i] - 1) * window.stride[i] + window.extents[i] - spatial[i] - window.before[i])
        for i in range(len(out))
    )
    stretched = Window(window.kernel, window.stride, window.dilation, window.before, reach)
    size = prod(window.kernel)
    weight = np.full((channels, 1, *window.kernel), 1.0 / size)
    kernel = (weight, np.zeros(channels), channels)
    result = convolve(call, value, stretched, kernel, out)
    return result if (counts == size).all() else scale(call, result, size / counts)


def _max_pool(call: Call) -> Value:
    call.require_one_output()
    value = spatial_input(call)
    spatial, channels = value.shape[2:], value.shape[1]
    window, out = _pool_window(call, value)
    # An entry in the padding counts as minus infinity: a valid one of its window stands for it.
    axes = [_valid(call, places, spatial[i]) for i, places in enumerate(_positions(window, out))]
    flat = np.arange(channels).reshape(-1, *(1,) * (2 * len(out)))
    for i, places in enumerate(axes):
        shape = [1] * (1 + 2 * len(out))
        shape[1 + i], shape[1 + len(out) + i] = places.shape
        flat = flat * spatial[i] + places.reshape(shape)
    windows = (channels, *out, prod(window.kernel))
    chosen = call.builder.emit(
        ops.Take(np.ascontiguousarray(flat.reshape(-1))), [value.index], (flat.size,), call.name
    )
    groups = call.builder.emit(ops.Reshape(), [chosen], windows, call.name)
    return call.emit(
        ops.Max(), [Traced(groups, windows, None)], (value.shape[0], channels, *out), 0
    )


def _valid(call: Call, places: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """The places, those outside `[0, length)` replaced by one inside in the same window."""
    inside = (places >= 0) & (places < length)
    if not inside.any(axis=1).all():
        call.fail("a window lies wholly in the padding", "repair the pads")
    first = places[np.arange(len(places)), inside.argmax(axis=1)]
    return np.where(inside, places, first[:, None])


def _global_average_pool(call: Call) -> Value:
    value = spatial_input(call)
    axes = tuple(range(1, len(value.shape) - 1))
    total = call.emit(ops.Sum(axes), [value], value.shape[:2], 0)
    mean = scale(call, total, 1.0 / prod(value.shape[2:]))
    return call.relabel(mean, (*value.shape[:2], *(1 for _ in axes)), 0)


def _global_max_pool(call: Call) -> Value:
    value = spatial_input(call)
    batch, channels, *spatial = value.shape
    rows = call.relabel(value, (batch, channels, prod(spatial)), 0)
    greatest = call.emit(ops.Max(), [rows], (batch, channels), 0)
    return call.relabel(greatest, (batch, channels, *(1 for _ in spatial)), 0)


POOLING_LOWERINGS: dict[str, Callable[[Call], Value | tuple[Value, ...]]] = {
    "AveragePool": _average_pool,
    "GlobalAveragePool": _global_average_pool,
    "GlobalMaxPool": _global_max_pool,
    "MaxPool": _max_pool,
}
