"""Constraints that hold besides the network's own lines, and how a backward pass takes them in.

A set of constraints is true of every input of the region (or of a domain). With multipliers it says
`sum over nodes of c_i . v_i >= constant`, `v_i` the value of node `i`. A lower bound may then
subtract `c_i` from the coefficients that stand at each node and add the constant: what is left is
bounded as ever, and any multipliers in their range give a sound bound.

Sources: Wang et al., beta-CROWN, 2021 (splits); Zhang et al., General Cutting Planes for
Bound-Propagation-Based Neural Network Verification, NeurIPS 2022; Ferrari et al., Complete
Verification via Multi-Neuron Relaxation Guided Branch-and-Bound, ICLR 2022.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from closegap.bounds.records import Interval
from closegap.bounds.regions import underflow
from closegap.bounds.sparse_rows import SparseRows
from closegap.core.numerics import gamma
from closegap.graph.network import Node

__all__ = ["SETS", "ConstraintSet", "CutPart", "LinearCuts", "Terms", "scattered", "unit_of"]

#: Sets that may add coefficients at one node, and some sums more.
SETS = 8


@dataclass(frozen=True, eq=False)
class Terms:
    """What multipliers make of a set: `sum over nodes c_i . v_i >= constant - rounding`.

    Attributes:
        coefficients: by node, `[B or 1, Q, *shape]`.
        constant: `[B or 1, Q]`.
        rounding: `[B or 1, Q]`; covers the sums taken here, zero when not asked for.
    """

    coefficients: Mapping[int, Tensor]
    constant: Tensor
    rounding: Tensor


@runtime_checkable
class ConstraintSet(Protocol):
    """Constraints with one vector of multipliers for each row that is bounded."""

    @property
    def size(self) -> int:
        """How many multipliers each row has."""

    @property
    def scale(self) -> float:
        """The size of a typical multiplier: the unit of the steps that seek them."""

    def terms(self, multipliers: Tensor, values: Sequence[Interval] | None) -> Terms:
        """The combined constraint.

        Args:
            multipliers: `[B or 1, Q, size]`, of any sign: those out of range are moved into it.
            values: intervals of every node, for the rounding; `None` computes none.
        """

    def project(self, multipliers: Tensor) -> Tensor:
        """The nearest multipliers in range."""

    def select(self, domains: Tensor) -> ConstraintSet:
        """The set of some domains."""

    def restricted(self, signs: Mapping[int, Tensor]) -> tuple[ConstraintSet, Tensor | None]:
        """The set under splits, and where no input obeys both, bool `[B]` (`None`: nowhere known).

        Args:
            signs: by feeding node, of every neuron: +1 for `z >= 0`, -1 for `z <= 0`, 0 for
                neither, `[B, N]`.
        """

    def to(self, dtype: torch.dtype) -> ConstraintSet:
        """The set in another dtype: for search, not for proof."""


@dataclass(frozen=True, eq=False)
class CutPart:
    """What linear cuts say about some neurons of one node.

    Attributes:
        node: where they are.
        shape: of the node.
        neurons: flat indices, without repeats, `[N]`.
        weights: sparse, `[rows, N]`.
    """

    node: int
    shape: tuple[int, ...]
    neurons: Int[Tensor, "N"]
    weights: Float[Tensor, "rows N"]

    @classmethod
    def of(
        cls, node: int, shape: tuple[int, ...], neurons: Int[Tensor, "N"], dense: Tensor
    ) -> CutPart:
        """From dense weights, `[rows, N]`."""
        return cls(node, shape, neurons, dense.to_sparse())


@dataclass(frozen=True, eq=False)
class LinearCuts:
    """Rows `sum over parts of weights . value <= limits`, over inputs and outputs of activations.

    Whoever makes them answers for their truth, rounding included: the floats stand for themselves.

    Attributes:
        parts: of a node there may be several.
        limits: `[rows]`, or `[B or 1, rows]` where domains differ.
        scale: see `ConstraintSet`.
    """

    parts: tuple[CutPart, ...]
    limits: Float[Tensor, "*B rows"]
    scale: float = 1.0

    @property
    def size(self) -> int:
        """How many rows there are."""
        return self.limits.shape[-1]

    def part(self, rows: Int[Tensor, "M"]) -> LinearCuts:
        """Some of the rows."""
        parts = tuple(
            replace(p, weights=p.weights.index_select(0, rows).coalesce()) for p in self.parts
        )
        return replace(self, parts=parts, limits=self.limits[..., rows])

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """What makes the same rows again."""
        found: dict[str, NDArray[np.generic]] = {
            "limits": np.asarray(self.limits.numpy()),
            "nodes": np.array([part.node for part in self.parts], dtype=np.int64),
        }
        for place, part in enumerate(self.parts):
            found[f"neurons_{place}"] = np.asarray(part.neurons.numpy())
            found[f"places_{place}"] = np.asarray(part.weights.indices().numpy())
            found[f"weights_{place}"] = np.asarray(part.weights.values().numpy())
        return found

    @classmethod
    def of_arrays(
        cls, arrays: Mapping[str, NDArray[np.generic]], nodes: Sequence[Node]
    ) -> LinearCuts:
        """The rows whose `arrays()` these are.

        Args:
            arrays: by name; as they are, they are believed.
            nodes: of the network.

        Raises:
            KeyError: an array is missing.
            ValueError: they do not fit together, or the network.
        """
        limits, parts = torch.tensor(arrays["limits"]), []
        fits = limits.dtype == torch.float64 and limits.dim() == 1
        for place, node in enumerate(arrays["nodes"].astype(np.int64).tolist()):
            neurons, places, weights = (
                torch.tensor(arrays[f"{n}_{place}"]) for n in ("neurons", "places", "weights")
            )
            sizes = torch.tensor([len(limits), len(neurons)])[:, None]
            fits = (
                fits
                and 0 <= node < len(nodes)
                and neurons.dtype == places.dtype == torch.int64
                and weights.dtype == torch.float64
                and places.shape == (2, len(weights))
                and bool(((neurons >= 0) & (neurons < nodes[node].size)).all())
                and bool(((places >= 0) & (places < sizes)).all())
            )
            if not fits:
                break
            size = (len(limits), len(neurons))
            held = torch.sparse_coo_tensor(places, weights, size, check_invariants=False)
            parts.append(CutPart(node, nodes[node].shape, neurons, held.coalesce()))
        if not fits:
            raise ValueError("linear cuts are damaged, or of another network")
        return cls(tuple(parts), limits)

    def terms(self, multipliers: Tensor, values: Sequence[Interval] | None) -> Terms:
        """See `ConstraintSet`: `-gamma . weights . value >= -gamma . limits`."""
        held = multipliers.clamp(min=0)
        limits = self.limits.reshape(-1, self.size, 1)
        coefficients, rounding = self._taken(held), held.new_zeros(held.shape[:2])
        if values is not None:
            # Every node may send coefficients to where these are added.
            sums = self.size + len(self.parts) + len(values) + SETS
            allowance = gamma(sums, unit_of(held.dtype))
            terms, met = self._reached(held, values)
            vanished = 4 * (self.size + 2) * underflow(held.dtype) * (met + 2)
            rounding = allowance * (terms + (held @ limits.abs())[..., 0]) + vanished
        return Terms(coefficients, -(held @ limits)[..., 0], rounding)

    def _taken(self, held: Tensor) -> dict[int, Tensor]:
        """What is taken off the coefficients, by node."""
        coefficients = dict[int, Tensor]()
        for part, moved in zip(self.parts, self._products(held), strict=True):
            taken = scattered(-moved, part.neurons, part.shape)
            before = coefficients.get(part.node)
            coefficients[part.node] = taken if before is None else before + taken
        return coefficients

    def _reached(self, held: Tensor, values: Sequence[Interval]) -> tuple[Tensor, Tensor]:
        """Sums of absolute terms, and of what errors of coefficients are multiplied with."""
        terms, met = held.new_zeros(held.shape[:2]), held.new_zeros(held.shape[0], 1)
        for part, moved in zip(self.parts, self._products(held, signed=False), strict=True):
            reach = values[part.node].magnitude.flatten(1)[:, None, part.neurons]
            terms = terms + (moved * reach).sum(2)
            met = met + reach.sum(2) + len(part.neurons)
        return terms, met

    def _products(self, held: Tensor, *, signed: bool = True) -> list[Tensor]:
        """Of multipliers with the weights of every part, or with their sizes."""
        if self._sparse is not None:
            return (self._sparse if signed else self._sparse.sizes).mixed(held)
        return [held @ (weights if signed else weights.abs()) for weights in self._dense]

    @cached_property
    def _dense(self) -> list[Tensor]:
        return [part.weights.to_dense() for part in self.parts]

    def ready(self) -> None:
        """Make what all products share now, not in the first of them."""
        if self._sparse is None:
            self._dense  # noqa: B018 - computed once

    @cached_property
    def _sparse(self) -> SparseRows | None:
        """The weights for products that skip zeros, where that is faster."""
        return SparseRows.of([part.weights for part in self.parts])

    def project(self, multipliers: Tensor) -> Tensor:
        """See `ConstraintSet`."""
        return multipliers.clamp(min=0)

    def select(self, domains: Tensor) -> LinearCuts:
        """See `ConstraintSet`."""
        if self.limits.dim() == 1 or len(self.limits) == 1:
            return self
        return replace(self, limits=self.limits[domains])

    def restricted(self, signs: Mapping[int, Tensor]) -> tuple[LinearCuts, None]:
        """See `ConstraintSet`: splits change nothing."""
        return self, None

    def to(self, dtype: torch.dtype) -> LinearCuts:
        """See `ConstraintSet`."""
        parts = tuple(CutPart(p.node, p.shape, p.neurons, p.weights.to(dtype)) for p in self.parts)
        return LinearCuts(parts, self.limits.to(dtype), self.scale)


def scattered(
    values: Float[Tensor, "B Q M"], neurons: Int[Tensor, "M"], shape: tuple[int, ...]
) -> Float[Tensor, "B Q ..."]:
    """Values summed up at their neurons: `[B, Q, *shape]`."""
    flat = values.new_zeros(*values.shape[:2], prod(shape)).index_add(2, neurons, values)
    return flat.reshape(*values.shape[:2], *shape)


def unit_of(dtype: torch.dtype) -> float:
    """Unit roundoff of a dtype."""
    return float(torch.finfo(dtype).eps) / 2
