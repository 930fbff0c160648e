"""What a lowering works with: traced values, the node being lowered, and the graph being built.

A value is either a constant array or a traced value: an IR node, the ONNX shape it stands for,
and where in that shape the batch axis is. IR nodes never hold the batch axis, so a lowering that
moves it (a Transpose), keeps it (almost all) or would mix it into the features (refused) says so
by the axis it hands on.

A free batch dimension is traced as the number `FREE_BATCH`, a prime far larger than any real
dimension: shape arithmetic in the model (Shape, Gather, Concat, Reshape) then keeps it visible.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, NoReturn, TypeAlias

import numpy as np
from numpy.typing import NDArray

from closegap.core.errors import ModelError, UnsupportedOpError
from closegap.graph.network import Node
from closegap.graph.ops import Op, Reshape

__all__ = [
    "FREE_BATCH",
    "BatchMixedError",
    "Builder",
    "Call",
    "Constant",
    "Shape",
    "Traced",
    "Value",
]

Shape: TypeAlias = tuple[int, ...]
Constant: TypeAlias = NDArray[Any]

#: Stands for a free batch dimension: a Mersenne prime that still fits into int32.
FREE_BATCH = 2**31 - 1


class BatchMixedError(UnsupportedOpError):
    """The batch axis would be mixed into others; with a batch of one it may still be fine."""


@dataclass(frozen=True, eq=False)
class Traced:
    """A value that depends on the network's input.

    Attributes:
        index: the IR node that computes it.
        shape: as ONNX has it, batch axis included.
        axis: where the batch axis is; `None` where one input's value has none.
    """

    index: int
    shape: Shape
    axis: int | None

    @property
    def sample(self) -> Shape:
        """The shape without the batch axis, that of the IR node; a single number is `(1,)`."""
        return _without(self.shape, self.axis)


Value: TypeAlias = Traced | Constant


def _without(shape: Shape, axis: int | None) -> Shape:
    return tuple(int(d) for i, d in enumerate(shape) if i != axis) or (1,)


@dataclass(eq=False)
class Builder:
    """The IR nodes built so far, and what was noticed on the way. Grows; nothing is removed."""

    batch: int
    nodes: list[Node] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    softmax_dropped: bool = False

    def emit(self, op: Op, inputs: Sequence[int], shape: Shape, name: str) -> int:
        """Append a node and return its index. `shape` is without the batch axis."""
        self.nodes.append(Node(op, tuple(inputs), tuple(int(d) for d in shape), name))
        return len(self.nodes) - 1

    def note(self, text: str) -> None:
        """Keep a remark for the user, once."""
        if text not in self.notes:
            self.notes.append(text)


@dataclass(frozen=True, eq=False)
class Call:
    """One ONNX node being lowered.

    Attributes:
        op: the ONNX operator.
        name: of the node, for messages and for the IR nodes it becomes.
        input_names: as in the file; an absent optional input is `""`.
        inputs: their values, `None` where absent.
        output_count: how many outputs the file names.
        attributes: as Python values.
        opset: version of the operator set.
        is_final: True iff the value is the network's output, but for changes of shape.
        builder: where IR nodes go.
    """

    op: str
    name: str
    input_names: tuple[str, ...]
    inputs: tuple[Value | None, ...]
    output_count: int
    attributes: dict[str, Any]
    opset: int
    is_final: bool
    builder: Builder

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute's value, or the default where the node has none."""
        return self.attributes.get(name, default)

    def has(self, index: int) -> bool:
        """True iff the optional input at `index` is present."""
        return index < len(self.inputs) and self.inputs[index] is not None

    def traced(self, index: int) -> Traced:
        """The input at `index`, which must depend on the network's input."""
        value = self.inputs[index] if self.has(index) else None
        if not isinstance(value, Traced):
            self.fail(f"its input {index} is a constant", "simplify the model before the export")
        return value

    def constant(self, index: int) -> Constant:
        """The input at `index`, which must be known before the network runs."""
        value = self.inputs[index] if self.has(index) else None
        if not isinstance(value, np.ndarray):
            self.fail(
                f"its input {index} ('{self._input_name(index)}') is not a constant",
                "export the model with constant weights and static shapes",
            )
        return value

    def weights(self, index: int) -> NDArray[np.float64]:
        """The constant input at `index` as float64, which must be finite.

        Raises:
            ModelError: names the tensor that holds a NaN or an infinity.
        """
        return self.finite(self.constant(index), self._input_name(index))

    def finite(self, array: Constant, name: str) -> NDArray[np.float64]:
        """The array as float64, refused where an entry is not finite."""
        weights = np.asarray(array, dtype=np.float64)
        if not np.isfinite(weights).all():
            kind = "NaN" if np.isnan(weights).any() else "an infinity"
            raise ModelError(
                f"tensor '{name}' at node '{self.name}' holds {kind}; train or export it again"
            )
        return weights

    def integers(self, name: str, index: int) -> tuple[int, ...] | None:
        """A list given as attribute `name` (old opsets) or as input `index` (new ones)."""
        if self.attribute(name) is not None:
            return tuple(int(i) for i in np.atleast_1d(self.attribute(name)))
        if not self.has(index):
            return None
        return tuple(int(i) for i in np.atleast_1d(self.constant(index)))

    def emit(self, op: Op, parents: Sequence[Traced], shape: Shape, axis: int | None) -> Traced:
        """Append an IR node computing a value of (ONNX) `shape` with its batch at `axis`."""
        index = self.builder.emit(op, [p.index for p in parents], _without(shape, axis), self.name)
        return Traced(index, tuple(int(d) for d in shape), axis)

    def relabel(self, value: Traced, shape: Shape, axis: int | None) -> Traced:
        """The same entries in the same order under another shape."""
        if _without(shape, axis) == value.sample:
            return Traced(value.index, tuple(int(d) for d in shape), axis)
        return self.emit(Reshape(), [value], shape, axis)

    def absorb(self, value: Traced) -> Traced:
        """The same value without a batch axis: it becomes an ordinary axis of length 1."""
        if value.axis is None:
            return value
        self.require_single_batch()
        return self.relabel(value, value.shape, None)

    def leading(self, value: Traced) -> Traced:
        """The same value with its batch axis in front, as convolutions and pools want it."""
        if value.axis == 0:
            return value
        whole = self.absorb(value)
        if not whole.shape or whole.shape[0] != 1:
            self.fail(
                f"its input of shape {list(whole.shape)} has no batch axis of length 1 in front",
                "export the model with a leading batch dimension",
            )
        return self.relabel(whole, whole.shape, 0)

    def require_single_batch(self) -> None:
        """Refuse to mix a free batch axis into others.

        Raises:
            BatchMixedError: unless the batch is fixed at one.
        """
        if self.builder.batch == FREE_BATCH:
            raise BatchMixedError(
                self.op,
                self.name,
                "it mixes the batch axis into other axes",
                "export the model with a batch dimension of 1",
            )

    def axis_of(self, value: Traced, axis: int) -> int:
        """`axis` counted from the front.

        Raises:
            UnsupportedOpError: there is no such axis.
        """
        rank = len(value.shape)
        if not -rank <= axis < rank:
            self.fail(f"it names axis {axis} of a value of rank {rank}", "repair the model")
        return axis % rank

    def stripped_axis(self, value: Traced, axis: int) -> int:
        """Which axis of the IR node the ONNX `axis` (from the front, not the batch) is."""
        return axis - (value.axis is not None and value.axis < axis)

    def fail(self, reason: str, advice: str) -> NoReturn:
        """Raise the error that names this node, why it is refused and what would help."""
        raise UnsupportedOpError(self.op, self.name, _told(reason), advice)

    def require_one_output(self) -> None:
        """Refuse a second output (masks, indices, running statistics)."""
        if self.output_count > 1:
            self.fail("more than its first output is used", "remove what reads the second output")

    def batch_axis_in(self, value: Traced, shape: Shape) -> int | None:
        """Where the batch axis lies after a reshape of `value` to `shape`.

        Raises:
            BatchMixedError: a free batch axis would be split, merged or moved.
        """
        if value.axis is None:
            return None
        if self.builder.batch != FREE_BATCH:
            ones = [i for i, d in enumerate(shape) if d == 1]
            return value.axis if value.axis in ones else next(iter(ones), None)
        before = prod(value.shape[: value.axis])
        for i, d in enumerate(shape):
            if d == FREE_BATCH and prod(shape[:i]) == before:
                return i
        self.require_single_batch()
        return None

    def _input_name(self, index: int) -> str:
        return self.input_names[index] if index < len(self.input_names) else f"input {index}"


def _told(reason: str) -> str:
    """The free batch dimension by its name, not by the number that stands for it."""

    def named(found: re.Match[str]) -> str:
        times, rest = divmod(int(found[0]), FREE_BATCH)
        if not times or rest:
            return found[0]
        return "batch" if times == 1 else f"batch x {times}"

    return re.sub("[0-9]+", named, reason)
