"""Rows that read few neurons each: products with their weights that skip the zeros."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

__all__ = ["SparseRows"]

#: Dense products read this many entries in the time that sparse ones take for one.
_DENSER = 8
#: Of fewer entries the product costs less than what is done around it.
_LEAST = 1 << 16


@dataclass(frozen=True, eq=False)
class SparseRows:
    """Weights of one set of rows, several matrices side by side.

    Attributes:
        widths: columns of each.
        weights: `[rows, columns]`, compressed by rows.
        turned: the same, `[columns, rows]`.
    """

    widths: tuple[int, ...]
    weights: Tensor
    turned: Tensor

    @classmethod
    def of(cls, parts: Sequence[Float[Tensor, "rows _"]]) -> SparseRows | None:
        """From sparse matrices.

        Returns:
            `None` where dense products are as fast, or torch has no fast sparse ones here.
        """
        entries = sum(part.numel() for part in parts)
        if entries < _LEAST or not torch.backends.mkl.is_available():
            return None
        whole = torch.cat(list(parts), dim=1).coalesce()
        if _DENSER * len(whole.values()) > entries:
            return None
        return cls(tuple(p.shape[1] for p in parts), _compressed(whole), _compressed(whole.t()))

    @cached_property
    def sizes(self) -> SparseRows:
        """The weights without their signs."""
        return SparseRows(self.widths, _unsigned(self.weights), _unsigned(self.turned))

    def mixed(self, multipliers: Float[Tensor, "B Q rows"]) -> list[Tensor]:
        """`multipliers @ weights` of each matrix, `[B, Q, width]`; sums in any order."""
        flat = multipliers.flatten(0, 1)
        summed = _Product.apply(flat, self.turned, self.weights)  # type: ignore[no-untyped-call]
        found = summed.reshape(*multipliers.shape[:2], summed.shape[1])
        return list(found.split(self.widths, dim=2))


class _Product(torch.autograd.Function):
    """`held @ weights` in row order, for which autograd has no rule."""

    @staticmethod
    def forward(ctx: FunctionCtx, *given: Tensor) -> Tensor:
        held, turned, weights = given
        ctx.weights = weights  # type: ignore[attr-defined]
        return (turned @ held.t().contiguous()).t().contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        return (ctx.weights @ gradient.t().contiguous()).t().contiguous(), None, None


def _compressed(matrix: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        return matrix.coalesce().to_sparse_csr()


def _unsigned(matrix: Tensor) -> Tensor:
    places = matrix.crow_indices(), matrix.col_indices()
    values, shape = matrix.values().abs(), matrix.shape
    return torch.sparse_csr_tensor(*places, values, shape, check_invariants=False)
