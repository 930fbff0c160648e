"""Bounds of lattices, trees of maxima and minima of affine functions, on many boxes at once.

Written with ReLUs, `max(a, b)` is `(a + b) / 2 + |a - b| / 2`: four neurons, of which two are
linear and two an absolute value. Bounds of single neurons forget that the parts belong together.
Here the maxima are put together again, where that is exact in float64, and bounded as what they
are: from below by the plane of one argument, from above by a mixture of both planes that is as high
as the chord of their difference asks for. A minimum is a maximum of negated arguments.
Source: Ferlez, Khedr, Shoukry, Fast BATLLNN, HSCC 2022, for the networks; Zhang et al., CROWN,
2018, for the chord.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int, Int8
from numpy.typing import NDArray
from scipy.sparse import csr_array, diags_array
from torch import Tensor

from closegap.bounds.boxes import BoxPlanes
from closegap.bounds.chain import chain_nodes, may_fold
from closegap.bounds.regions import underflow
from closegap.core.numerics import TINY, gamma
from closegap.graph import ops
from closegap.graph.fusion import products_are_normal
from closegap.graph.network import Network

__all__ = ["Lattice", "lattice"]

#: Entries of the planes of one level, of the boxes bounded at a time: they stay in a cache.
_LEVEL_ENTRIES = 250_000
#: Terms added to every allowance: what a maximum and concretising take.
_EXTRA_TERMS = 32

Array: TypeAlias = NDArray[np.float64]
_Step: TypeAlias = tuple[csr_array, Array]
_T = TypeVar("_T", csr_array, Array)


class _Affine:
    """`matrix y + bias` on planes; `reach` bounds the terms that made the bias."""

    def __init__(self, matrix: csr_array, bias: Array, reach: Array) -> None:
        self.matrix, self.absolute, self.reach = matrix, abs(matrix), reach
        self._bias = torch.from_numpy(bias)
        self._parts = [_signed(matrix, sign) for sign in (1, -1)]

    def values(self, points: Tensor) -> Tensor:
        """`[in, M] -> [out, M]`."""
        return torch.from_numpy(self.matrix @ points.numpy()) + self._bias[:, None]

    def around(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Planes `[out, F + 1, B]` below and above, from those around its input."""
        if low is high:
            exact = self._through(low, high)
            return exact, exact
        return self._through(low, high), self._through(high, low)

    def _through(self, same: Tensor, other: Tensor) -> Tensor:
        positive, negative = self._parts
        found = _times(positive, same)
        if negative.nnz:
            found += _times(negative, other)
        found[:, -1] += self._bias[:, None]
        return found


@dataclass(frozen=True, eq=False)
class _Level:
    """`y -> max(first(y), second(y))`."""

    first: _Affine
    second: _Affine


class Lattice:
    """Levels of maxima, as a function of the free inputs.

    Args:
        levels: in order.
        signs: `output = signs * (values of the last level)`.
        reach: greatest absolute values of the free inputs over all boxes, `[F]`.
        fixed: inputs that do not vary.
    """

    def __init__(self, levels: list[_Level], signs: Array, reach: Array, fixed: int) -> None:
        self._levels = levels
        self._signs = torch.from_numpy(signs)
        width = max(level.first.matrix.shape[0] for level in levels)
        self._boxes_at_once = max(1, _LEVEL_ENTRIES // (width * (len(reach) + 1)))
        size, loss = reach, np.zeros_like(reach)
        for level in levels:
            sizes, losses, terms = [], [], _EXTRA_TERMS + fixed + len(reach) + len(signs)
            for part in (level.first, level.second):
                sizes.append(part.absolute @ size + part.reach)
                losses.append(part.absolute @ loss)
                terms += int(np.diff(part.matrix.indptr).max(initial=0))
            # A mixture is no larger than the larger plane, and it is raised by no more than that.
            size = 2 * np.maximum(*sizes)
            vanished = 8 * terms * underflow(torch.float64) * (reach.sum() + 8)
            loss = np.maximum(*losses) + 8 * gamma(terms) * size + vanished
        self._loss = torch.from_numpy(2 * loss)
        self._vanished = float(len(signs) * vanished)

    @property
    def is_finite(self) -> bool:
        """No sum of absolute terms overflows."""
        return bool(self._loss.isfinite().all())

    @property
    def signs(self) -> int:
        """Boxes hand no signs on."""
        return 0

    def values(self, points: Float[Tensor, "M F"]) -> Float[Tensor, "M C"]:
        """Outputs at points of the free inputs: a guide for search."""
        values = points.T.contiguous()
        for level in self._levels:
            values = torch.maximum(level.first.values(values), level.second.values(values))
        return values.T * self._signs

    def bound(
        self,
        lower: Float[Tensor, "B F"],
        upper: Float[Tensor, "B F"],
        rows: Float[Tensor, "Q C"],
        known: Int8[Tensor, "B signs"],
    ) -> BoxPlanes:
        """Planes below `rows . output` on each box.

        Args:
            lower: of the boxes, within the region the lattice was made for.
            upper: likewise.
            rows: on the flat output.
            known: handed on.
        """
        signed = rows * self._signs
        parts = [
            self._bound(lower[part], upper[part], signed)
            for part in torch.arange(len(lower)).split(self._boxes_at_once)
        ]
        planes = torch.cat(parts, dim=2).permute(2, 0, 1)
        loss = signed.abs() @ self._loss + self._vanished
        blame = torch.zeros_like(planes[..., :-1])
        return BoxPlanes(planes[..., :-1], planes[..., -1], loss, known, blame)

    def _bound(self, lower: Tensor, upper: Tensor, rows: Tensor) -> Tensor:
        """Planes `[Q, F + 1, B]`, the constant last."""
        middle, half = ((upper + lower) / 2).T, ((upper - lower) / 2).T
        free = len(middle)
        low = high = torch.eye(free, free + 1, dtype=lower.dtype)[..., None]
        for level in self._levels:
            first, second = level.first.around(low, high), level.second.around(low, high)
            low, high = _maximum(first, second, middle, half)
        rows = rows[..., None, None]
        found = (rows.clamp(min=0) * low + rows.clamp(max=0) * high).sum(dim=1)
        return found.expand(-1, -1, len(lower))


def _maximum(
    first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor], middle: Tensor, half: Tensor
) -> tuple[Tensor, Tensor]:
    """Planes below and above the greater of two values, from the planes around each.

    Below: the plane that is higher in the middle. Above: `max(a, b) = b + relu(a - b)` for the
    upper planes, with the chord of the ReLU.
    """
    gap = first[1] - second[1]
    centre = (gap[:, :-1] * middle).sum(dim=1) + gap[:, -1]
    spread = (gap[:, :-1].abs() * half).sum(dim=1)
    least, most = centre - spread, centre + spread
    chord = (most / (most - least).clamp(min=TINY)).clamp(0, 1)
    high = torch.addcmul(second[1], chord[:, None], gap)
    high[:, -1] += torch.maximum((1 - chord) * most, -chord * least).clamp(min=0)
    if first[0] is not first[1]:
        gap = first[0] - second[0]
        centre = (gap[:, :-1] * middle).sum(dim=1) + gap[:, -1]
    return torch.where((centre > 0)[:, None], first[0], second[0]), high


def _times(matrix: csr_array, planes: Tensor) -> Tensor:
    found = matrix @ planes.flatten(1).numpy()
    return torch.from_numpy(found).reshape(-1, *planes.shape[1:])


def _signed(matrix: csr_array, sign: int) -> csr_array:
    part = matrix.copy()
    part.data = sign * np.maximum(sign * part.data, 0)
    part.eliminate_zeros()
    return part


def lattice(
    network: Network, lower: Float[Tensor, "D"], upper: Float[Tensor, "D"], free: Int[Tensor, "F"]
) -> Lattice | None:
    """The network as a lattice over its free inputs; `None` where it is none.

    Args:
        network: dense layers and ReLUs: one layer before the first ReLU and behind the last, one
            or two between.
        lower: of the region that holds all boxes, flat.
        upper: likewise; equal to `lower` outside `free`.
        free: flat indices of the inputs that vary.
    """
    layers = chain_nodes(network)
    if layers is None or not may_fold(network):
        return None
    fixed = lower.numpy().copy()
    fixed[free.numpy()] = 0
    levels, kinds = list[_Level](), np.ones(network.input_size)
    for place, (before, after) in enumerate(pairwise(layers)):
        found = None
        if products_are_normal(network.nodes[before[-1]].op, network.nodes[after[0]].op):
            found = _level(_weights(network, before[-1]), _weights(network, after[0]))
        if found is None:
            return None
        pair = [_turned(part, found[2], kinds) for part in found[:2]]
        if place:
            levels.append(_Level(*(_Affine(m, b, np.abs(b)) for m, b in pair)))
        else:
            levels.append(_Level(*(_restricted(m, b, fixed, free) for m, b in pair)))
        kinds = found[2]
    reach = torch.maximum(lower.abs(), upper.abs())[free].numpy()
    made = Lattice(levels, kinds, reach, len(lower) - len(free))
    return made if made.is_finite else None


def _turned(step: _Step, kinds: Array, before: Array) -> _Step:
    """Both sides with signs, so that every minimum is a maximum."""
    matrix = diags_array(kinds) @ step[0] @ diags_array(before)
    return csr_array(matrix), kinds * step[1]


def _restricted(matrix: csr_array, bias: Array, fixed: Array, free: Tensor) -> _Affine:
    """A function of the free inputs: the others stay where they are."""
    reach = abs(matrix) @ np.abs(fixed) + np.abs(bias)
    return _Affine(csr_array(matrix[:, free.numpy()]), matrix @ fixed + bias, reach)


def _weights(network: Network, index: int) -> _Step:
    op = network.nodes[index].op
    if not isinstance(op, ops.Linear):
        raise AssertionError("chains have dense layers")
    return csr_array(op.weight), op.bias


def _level(step: _Step, reader: _Step) -> tuple[_Step, _Step, Array] | None:
    """What a reader makes of ReLUs: maxima (kind 1) or minima (kind -1) of two affine functions.

    Returns:
        both functions and the kinds, if the neurons come in pairs `z, -z`, each read as `z` or as
        `|z|`, every output reads at most one of each, and all sums are exact; else `None`.
    """
    (weight, bias), (matrix, offset) = step, reader
    columns = csr_array(matrix.T)
    keys = [np.abs(part @ np.sqrt(2.0 + np.arange(part.shape[1]))) for part in (columns, weight)]
    order = np.lexsort((np.abs(bias), *keys))
    one, two = order[0::2], order[1::2]
    odd = _is_empty(columns[one] + columns[two])
    even = _is_empty(columns[one] - columns[two])
    opposite = _is_empty(weight[one] + weight[two]) & (bias[one] == -bias[two])
    if not (opposite & (odd | even)).all():
        return None
    line, fold = csr_array(matrix[:, one[odd]]), csr_array(matrix[:, one[even & ~odd]])
    if any(np.diff(part.indptr).max(initial=0) > 1 for part in (line, fold)):
        return None
    kinds = np.where(fold.sum(axis=1) >= 0, 1.0, -1.0)
    line_of = (line @ weight[one[odd]], line @ bias[one[odd]])
    fold_of = (abs(fold) @ weight[one[even & ~odd]], abs(fold) @ bias[one[even & ~odd]])
    pair = [_sum(line_of, fold_of, offset), _sum(line_of, (-fold_of[0], -fold_of[1]), offset)]
    if pair[0] is None or pair[1] is None:
        return None
    return pair[0], pair[1], kinds


def _is_empty(matrix: csr_array) -> NDArray[np.bool_]:
    """Rows without entries."""
    return np.asarray(abs(matrix).sum(axis=1) == 0)


def _sum(one: _Step, two: _Step, offset: Array) -> _Step | None:
    """The sum of two affine functions and an offset; `None` if float64 rounds it."""
    matrix, bias = one[0] + two[0], one[1] + two[1]
    total = bias + offset
    lost = [
        abs(_lost(one[0], two[0], matrix)).max(),
        np.abs(_lost(one[1], two[1], bias)).max(),
        np.abs(_lost(bias, offset, total)).max(),
    ]
    return (csr_array(matrix), total) if max(lost) == 0 else None


def _lost(one: _T, two: _T, total: _T) -> _T:
    """What a rounded sum lacks, exactly (Knuth's two-sum)."""
    rest: _T = total - one
    lost: _T = (one - (total - rest)) + (two - rest)
    return lost
