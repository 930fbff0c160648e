"""How a kernel slides over the spatial axes, read from a node's attributes."""

from __future__ import annotations

from dataclasses import dataclass

from closegap.frontend.trace import Call, Shape, Traced

__all__ = ["Window", "spatial_input", "window_of"]


@dataclass(frozen=True)
class Window:
    """A sliding window; all tuples have one entry a spatial axis.

    Attributes:
        kernel: entries of the window.
        stride: step between two windows.
        dilation: step between two entries of a window.
        before: padding in front.
        after: padding behind.
    """

    kernel: Shape
    stride: Shape
    dilation: Shape
    before: Shape
    after: Shape

    @property
    def extents(self) -> Shape:
        """From a window's first entry to its last, both counted."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilation, strict=True))

    def output(self, shape: Shape, *, ceil: bool = False) -> Shape:
        """Numbers of windows over spatial axes of lengths `shape`.

        With `ceil`, a last window may overhang the padding behind, unless it starts in it.
        """
        return tuple(
            _count(shape[i] + self.before[i], self.after[i], self.extents[i], self.stride[i], ceil)
            for i in range(len(shape))
        )

    def lifted(self) -> Window:
        """The same window over two axes, the first of length 1, where it has only one."""
        if len(self.kernel) == 2:
            return self
        return Window(
            (1, *self.kernel),
            (1, *self.stride),
            (1, *self.dilation),
            (0, *self.before),
            (0, *self.after),
        )


def _count(length: int, after: int, extent: int, stride: int, ceil: bool) -> int:
    room = length + after - extent
    if not ceil:
        return room // stride + 1
    count = -(-room // stride) + 1
    return count - ((count - 1) * stride >= length)


def spatial_input(call: Call) -> Traced:
    """The node's first input as `[batch, channels, *spatial]`, with at least one spatial axis."""
    value = call.leading(call.traced(0))
    if len(value.shape) < 3:
        call.fail(f"its input has shape {list(value.shape)}, no spatial axis", "repair the model")
    return value


def window_of(call: Call, spatial: Shape, kernel: Shape) -> Window:
    """The window described by `strides`, `dilations`, `pads` and `auto_pad`.

    Raises:
        UnsupportedOpError: the kernel does not fit the rank, or a pad is negative.
    """
    rank = len(spatial)
    if len(kernel) != rank:
        call.fail(f"a kernel {list(kernel)} meets {rank} spatial axes", "repair the model")
    stride = tuple(call.attribute("strides") or (1,) * rank)
    dilation = tuple(call.attribute("dilations") or (1,) * rank)
    mode = call.attribute("auto_pad", "NOTSET")
    pads = tuple(call.attribute("pads") or (0,) * (2 * rank))
    if min(pads) < 0:
        call.fail(f"its pads {list(pads)} are negative", "crop with a Slice before it")
    window = Window(tuple(kernel), stride, dilation, pads[:rank], pads[rank:])
    if mode in ("NOTSET", ""):
        return window
    if mode == "VALID":
        return Window(window.kernel, stride, dilation, (0,) * rank, (0,) * rank)
    if mode not in ("SAME_UPPER", "SAME_LOWER"):
        call.fail(f"its auto_pad is {mode}", "use explicit pads")
    total = [
        max((-(-length // step) - 1) * step + extent - length, 0)
        for length, step, extent in zip(spatial, stride, window.extents, strict=True)
    ]
    less, more = tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
    before, after = (less, more) if mode == "SAME_UPPER" else (more, less)
    return Window(window.kernel, stride, dilation, before, after)
