"""Operators that pick, join or frame entries with constant indices."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from math import prod
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from closegap.frontend.lowering.arithmetic import broadcast_to, shift
from closegap.frontend.trace import Call, Shape, Traced, Value
from closegap.graph import ops

__all__ = ["SELECTION_LOWERINGS", "select"]

Indices = NDArray[np.int64]


def select(call: Call, value: Traced, choose: Callable[[Indices], Indices]) -> Traced:
    """Entries picked by `choose`, which is given the flat indices in the value's ONNX shape.

    The batch axis appears to `choose` with length 1 and must come back as it was.
    """
    shape = tuple(1 if i == value.axis else d for i, d in enumerate(value.shape))
    chosen = choose(np.arange(prod(shape), dtype=np.int64).reshape(shape))
    out = tuple(value.shape[i] if i == value.axis else int(d) for i, d in enumerate(chosen.shape))
    if prod(chosen.shape) == 0:
        call.fail("it selects nothing", "repair the model")
    entries = np.ascontiguousarray(chosen.reshape(-1))
    flat = call.builder.emit(ops.Take(entries), [value.index], (entries.size,), call.name)
    return call.relabel(Traced(flat, (entries.size,), None), out, value.axis)


def _gather(call: Call) -> Value:
    value, indices = call.traced(0), call.constant(1)
    axis = call.axis_of(value, call.attribute("axis", 0))
    length = value.shape[axis]
    if axis == value.axis:
        value = call.absorb(value)
    places = np.where(indices < 0, indices + length, indices).astype(np.int64)
    if ((places < 0) | (places >= length)).any():
        call.fail(f"an index is outside an axis of length {length}", "repair the model")
    moved = value.axis
    if moved is not None and moved > axis:
        moved += places.ndim - 1
    shape = tuple(1 if i == value.axis else d for i, d in enumerate(value.shape))
    entries = np.arange(prod(shape), dtype=np.int64).reshape(shape).take(places, axis=axis)
    if entries.size == 0:
        call.fail("it selects nothing", "repair the model")
    flat_entries = np.ascontiguousarray(entries.reshape(-1))
    flat = call.builder.emit(ops.Take(flat_entries), [value.index], (flat_entries.size,), call.name)
    batch = 1 if value.axis is None else value.shape[value.axis]
    out = tuple(batch if i == moved else int(d) for i, d in enumerate(entries.shape))
    return call.relabel(Traced(flat, (flat_entries.size,), None), out, moved)


def _slice(call: Call) -> Value:
    value = call.traced(0)
    starts, ends = call.integers("starts", 1), call.integers("ends", 2)
    if starts is None or ends is None:
        call.fail("its starts or ends are missing", "repair the model")
    axes = call.integers("axes", 3) or tuple(range(len(starts)))
    steps = call.integers("steps", 4) or (1,) * len(starts)
    cuts = [slice(None)] * len(value.shape)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        place = call.axis_of(value, axis)
        length = value.shape[place]
        if place == value.axis:
            if len(range(*slice(start, end, step).indices(length))) != length or step < 0:
                call.require_single_batch()
                call.fail("it cuts the batch axis", "export the model without it")
            continue
        stop = None if step < 0 and end < -length else end
        cuts[place] = slice(start, stop, step)
    return select(call, value, lambda entries: entries[tuple(cuts)])


def _split(call: Call) -> tuple[Value, ...]:
    value = call.traced(0)
    axis = call.axis_of(value, call.attribute("axis", 0))
    if axis == value.axis:
        value = call.absorb(value)
    length = value.shape[axis]
    lengths = call.integers("split", 1)
    if lengths is None:
        count = call.output_count
        part = -(-length // count)
        lengths = (*(part for _ in range(count - 1)), length - part * (count - 1))
    if sum(lengths) != length:
        call.fail(f"its parts {list(lengths)} do not sum to {length}", "repair the model")
    ends = np.cumsum((0, *lengths))
    whole = (slice(None),) * axis
    return tuple(
        select(call, value, itemgetter((*whole, slice(int(start), int(end)))))
        for start, end in pairwise(ends)
    )


def _concat(call: Call) -> Value:
    parts = [part for part in call.inputs if part is not None]
    traced = [part for part in parts if isinstance(part, Traced)]
    if not traced:
        call.fail("it joins no value that depends on the input", "simplify the model")
    axis = call.axis_of(traced[0], call.attribute("axis", 0))
    if any(part.axis != traced[0].axis for part in traced) or axis == traced[0].axis:
        parts = [call.absorb(part) if isinstance(part, Traced) else part for part in parts]
    values = _frame_constants(call, parts, axis)
    shape = list(values[0].shape)
    shape[axis] = sum(value.shape[axis] for value in values)
    if len(values) == 1:
        return values[0]
    op = ops.Concat(call.stripped_axis(values[0], axis))
    return call.emit(op, values, tuple(shape), values[0].axis)


def _frame_constants(call: Call, parts: list[Value], axis: int) -> list[Traced]:
    """Constants become zeros around a traced neighbour, plus a shift."""
    values: list[Traced] = []
    waiting: list[NDArray[np.float64]] = []
    for index, part in enumerate(parts):
        if not isinstance(part, Traced):
            waiting.append(call.finite(part, call.input_names[index]))
            continue
        values.append(_surround(call, part, axis, waiting, []))
        waiting = []
    if waiting:
        values[-1] = _surround(call, values[-1], axis, [], waiting)
    return values


def _surround(
    call: Call,
    value: Traced,
    axis: int,
    front: list[NDArray[np.float64]],
    back: list[NDArray[np.float64]],
) -> Traced:
    if not front and not back:
        return value
    before, after = (sum(p.shape[axis] for p in side) for side in (front, back))
    middle = np.zeros([1 if i == value.axis else d for i, d in enumerate(value.shape)])
    offset = np.concatenate([*front, middle, *back], axis=axis)
    framed = _zeros_around(
        call, value, [(before, after) if i == axis else (0, 0) for i in range(len(value.shape))]
    )
    return shift(call, framed, offset)


def _zeros_around(call: Call, value: Traced, widths: list[tuple[int, int]]) -> Traced:
    """Zeros of `widths[axis] = (before, after)` around, none of them negative."""
    shape = tuple(d + sum(w) for d, w in zip(value.shape, widths, strict=True))
    kept = tuple(w for i, w in enumerate(widths) if i != value.axis)
    return call.emit(ops.Pad(kept), [value], shape, value.axis)


def _pad(call: Call) -> Value:
    value = call.traced(0)
    mode = call.attribute("mode", "constant")
    widths = _pad_widths(call, value)
    if value.axis is not None and widths[value.axis] != (0, 0):
        value = call.absorb(value)
    crops = tuple(
        slice(max(0, -before), d - max(0, -after))
        for d, (before, after) in zip(value.shape, widths, strict=True)
    )
    grown = [(max(0, before), max(0, after)) for before, after in widths]
    if any(before < 0 or after < 0 for before, after in widths):
        crops = tuple(slice(None) if i == value.axis else c for i, c in enumerate(crops))
        value = select(call, value, lambda entries: entries[crops])
    if not any(before or after for before, after in grown):
        return value
    if mode != "constant":
        return _repeat_around(call, value, grown, mode)
    fill = _fill(call)
    if fill == 0:
        return _zeros_around(call, value, grown)
    return shift(call, _zeros_around(call, shift(call, value, -fill), grown), fill)


def _repeat_around(call: Call, value: Traced, widths: list[tuple[int, int]], mode: str) -> Traced:
    """Padding that repeats entries of the value itself."""
    if mode not in ("reflect", "edge", "wrap"):
        call.fail(f"its mode is {mode}", "use constant, reflect, edge or wrap")
    return select(call, value, lambda entries: np.pad(entries, widths, mode=mode))  # type: ignore[call-overload]  # mode is one of numpy's literals, checked above


def _pad_widths(call: Call, value: Traced) -> list[tuple[int, int]]:
    pads = call.integers("pads", 1)
    if pads is None:
        call.fail("its pads are missing", "repair the model")
    rank = len(value.shape)
    axes = tuple(range(rank))
    if call.has(3):
        axes = tuple(call.axis_of(value, int(a)) for a in call.constant(3))
    widths = [(0, 0)] * rank
    for i, axis in enumerate(axes):
        widths[axis] = (pads[i], pads[i + len(axes)])
    return widths


def _fill(call: Call) -> float:
    if call.has(2) and call.constant(2).size:
        return float(call.weights(2).reshape(-1)[0])
    return float(call.attribute("value", 0.0))


def _expand(call: Call) -> Value:
    value = call.traced(0)
    target = tuple(int(d) for d in call.constant(1))
    rank = max(len(target), len(value.shape))
    old = (1,) * (rank - len(value.shape)) + value.shape
    new = (1,) * (rank - len(target)) + target
    shape: Shape = tuple(a if b == 1 else b for a, b in zip(old, new, strict=True))
    return broadcast_to(call, value, shape)


def _tile(call: Call) -> Value:
    value, repeats = call.traced(0), tuple(int(r) for r in call.constant(1))
    if value.axis is not None and repeats[value.axis] != 1:
        value = call.absorb(value)
    return select(call, value, lambda entries: np.tile(entries, repeats))


SELECTION_LOWERINGS: dict[str, Callable[[Call], Value | tuple[Value, ...]]] = {
    "Concat": _concat,
    "Expand": _expand,
    "Gather": _gather,
    "Pad": _pad,
    "Slice": _slice,
    "Split": _split,
    "Tile": _tile,
}
