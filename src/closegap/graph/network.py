"""The network: nodes in topological order, and the ONNX bytes they were read from."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from math import prod

from closegap.graph.ops import ACTIVATIONS, Input, Op

__all__ = ["Network", "Node"]


@dataclass(frozen=True, eq=False)
class Node:
    """One op. `inputs` are indices of earlier nodes; `shape` is without the batch dimension."""

    op: Op
    inputs: tuple[int, ...]
    shape: tuple[int, ...]
    name: str = ""

    @property
    def size(self) -> int:
        """Number of entries."""
        return prod(self.shape)

    @property
    def is_activation(self) -> bool:
        """True for the non-linear ops, whose input bounds matter."""
        return isinstance(self.op, ACTIVATIONS)


@dataclass(frozen=True, eq=False)
class Network:
    """A computation graph read from ONNX. Node 0 is the input, the last node the output.

    Attributes:
        nodes: in topological order: every input index is smaller than the node's own.
        onnx_bytes: the (uncompressed) ONNX file; the truth that replays a witness.
        digest: SHA-256 of `onnx_bytes`, in hex.
        batch: the ONNX file's own leading dimension: 1 when fixed, `None` when free.
        source: where it was read from, for messages.
        softmax_dropped: True iff a final Softmax was left out: only comparisons between outputs
            keep their meaning.
        notes: what the front end did that a user should know.
    """

    nodes: tuple[Node, ...]
    onnx_bytes: bytes = field(repr=False)
    digest: str
    batch: int | None
    source: str = ""
    softmax_dropped: bool = False
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.nodes or not isinstance(self.nodes[0].op, Input):
            raise ValueError("a network's first node must be its input")
        for index, node in enumerate(self.nodes):
            if any(parent >= index for parent in node.inputs):
                raise ValueError(f"node {index} ('{node.name}') comes before one of its inputs")

    @property
    def output(self) -> int:
        """Index of the output node."""
        return len(self.nodes) - 1

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input, without the batch dimension."""
        return self.nodes[0].shape

    @property
    def input_size(self) -> int:
        """Number of input entries (D)."""
        return self.nodes[0].size

    @property
    def output_size(self) -> int:
        """Number of outputs (C)."""
        return self.nodes[-1].size

    @cached_property
    def activations(self) -> tuple[int, ...]:
        """Indices of the non-linear nodes, in topological order."""
        return tuple(i for i, node in enumerate(self.nodes) if node.is_activation)

    @cached_property
    def pre_activations(self) -> tuple[int, ...]:
        """Indices of the nodes that feed a non-linear node, without repeats, in order."""
        return tuple(sorted({self.nodes[i].inputs[0] for i in self.activations}))

    @cached_property
    def consumers(self) -> tuple[tuple[int, ...], ...]:
        """For every node the indices of the nodes that read it."""
        readers: list[list[int]] = [[] for _ in self.nodes]
        for index, node in enumerate(self.nodes):
            for parent in node.inputs:
                readers[parent].append(index)
        return tuple(tuple(r) for r in readers)
