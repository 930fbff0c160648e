"""Parameters that neurons' bounds were climbed to before, where the next climb on them begins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from closegap.bounds.records import Parameters

__all__ = ["WarmStarts"]


@dataclass(frozen=True, eq=False)
class _Record:
    """The rows of one climb: which sides of which neurons, `[Q]`, and their parameters."""

    sides: Int[Tensor, "Q"]
    parameters: Parameters

    def select(self, kept: Tensor) -> _Record:
        """Some of the rows."""
        return _Record(self.sides[kept], _select(self.parameters, kept))

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in _tensors(self.parameters))


class WarmStarts:
    """What climbs on the neurons of one domain ended with, by node.

    Slopes and split multipliers are kept; any of them gives a sound bound under other bounds too.

    Args:
        most_bytes: what does not fit is not kept.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._records: dict[int, list[_Record]] = {}

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(record.nbytes for records in self._records.values() for record in records)

    def find(self, start: int, rows: Float[Tensor, "1 Q ..."]) -> Parameters | None:
        """Where to begin with rows at a node; `None` unless every one was kept.

        Args:
            start: the node.
            rows: each +1 or -1 at one neuron and zero elsewhere.
        """
        wanted = _sides(rows)
        places, found = [], []
        for record in self._records.get(start, ()):
            here = torch.isin(wanted, record.sides).nonzero()[:, 0]
            if len(here):
                at = (record.sides[None] == wanted[here][:, None]).int().argmax(dim=1)
                places.append(here)
                found.append(record.select(at).parameters)
        if sum(map(len, places)) != len(wanted):
            return None
        order = torch.cat(places).argsort()
        slopes = {i: torch.cat([p.slopes[i] for p in found], dim=1) for i in found[0].slopes}
        splits = {i: torch.cat([p.splits[i] for p in found], dim=1) for i in found[0].splits}
        return _select(Parameters(slopes, splits), order)

    def keep(self, start: int, rows: Float[Tensor, "1 Q ..."], parameters: Parameters) -> None:
        """Remember what the climb on some rows ended with, instead of what it began with."""
        fresh = _Record(_sides(rows), Parameters(parameters.slopes, parameters.splits))
        left = []
        for record in self._records.pop(start, []):
            kept = (~torch.isin(record.sides, fresh.sides)).nonzero()[:, 0]
            if len(kept) and _alike(record.parameters, parameters):
                left.append(record.select(kept))
        if self.nbytes + sum(r.nbytes for r in left) + fresh.nbytes <= self._most:
            self._records[start] = [*left, fresh]


def _sides(rows: Tensor) -> Tensor:
    """A number for each row's neuron and sign, `[Q]`."""
    flat = rows.flatten(2)[0]
    return 2 * flat.abs().argmax(dim=1) + (flat.sum(dim=1) > 0)


def _alike(first: Parameters, second: Parameters) -> bool:
    return first.slopes.keys() == second.slopes.keys() and (
        first.splits.keys() == second.splits.keys()
    )


def _select(parameters: Parameters, rows: Tensor) -> Parameters:
    def part(table: Mapping[int, Tensor]) -> dict[int, Tensor]:
        return {i: t[:, rows] for i, t in table.items()}

    return Parameters(part(parameters.slopes), part(parameters.splits))


def _tensors(parameters: Parameters) -> list[Tensor]:
    return [*parameters.slopes.values(), *parameters.splits.values()]
