"""An attack of least distance, whole: search side by side, polish, judge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from closegap.attacks.activation.nearest import Nearest, OnNearer
from closegap.attacks.gradient.loop import CPU_CHUNK_BYTES
from closegap.attacks.minimal.lanes import Best, Lanes, build_lanes, lanes_of
from closegap.attacks.minimal.method import DescentInterrupted, MinimalMethod, descend
from closegap.attacks.minimal.polish import Polish
from closegap.attacks.minimal.starts import thrown
from closegap.core.budget import Budget
from closegap.runtime.cache import compiled, replayer
from closegap.runtime.torch_network import TorchNetwork
from closegap.specs.distance import DistanceQuery

__all__ = ["MinimalAttack", "NearestInterrupted", "replayed", "room_of"]

JudgeOf: TypeAlias = Callable[[DistanceQuery], OnNearer]

#: Bytes of a node's value, its gradient and a copy, and tensors of inputs beside them.
_BYTES, _ALIVE = 12, 4


class NearestInterrupted(KeyboardInterrupt):
    """Ctrl-C during an attack of least distance.

    Attributes:
        nearest: what was found until then, one a query.
    """

    def __init__(self, nearest: Sequence[Nearest]) -> None:
        super().__init__()
        self.nearest = tuple(nearest)


@dataclass(frozen=True)
class MinimalAttack:
    """A method with restarts, and the improvements that follow it.

    Attributes:
        method: searches.
        restarts: lanes an image; the first goes for any class, the others for one class each.
        polish: improves what was found; `None` leaves it as it is.
    """

    method: MinimalMethod[Any]
    restarts: int = 1
    polish: Polish | None = field(default_factory=Polish)

    @property
    def name(self) -> str:
        """The method's."""
        return self.method.name

    def run(self, query: DistanceQuery, budget: Budget, judge: OnNearer) -> Nearest:
        """Search near one image.

        Args:
            query: whose counterexamples; its own distance chooses among what was found.
            budget: deadline and seed.
            judge: says of a point whether it counts.

        Returns:
            the nearest point that counted.

        Raises:
            NearestInterrupted: Ctrl-C; what was found until then was judged too.
        """
        (nearest,) = self.run_all([query], budget, lambda _: judge)
        return nearest

    def run_all(
        self,
        queries: Sequence[DistanceQuery],
        budget: Budget,
        judge_of: JudgeOf | None = None,
        *,
        device: torch.device | str = "cpu",
    ) -> tuple[Nearest, ...]:
        """Search near all images side by side; the queries are of one network.

        Args:
            queries: in any number; memory decides how many go at a time.
            budget: deadline and seed, of all of them together.
            judge_of: the judge of each query; `replayed` if `None`.
            device: where the network runs.

        Raises:
            NearestInterrupted: Ctrl-C, with what was found until then of every query.
        """
        if not queries:
            return ()
        network = compiled(queries[0].network, torch.float32, str(device))
        answers: list[Nearest] = []
        room = room_of(network, budget)
        width = max(1, room // self.restarts)
        try:
            for begin in range(0, len(queries), width):
                part = queries[begin : begin + width]
                # Each part by the same seed, so that an image's answer hardly follows its company.
                found, stopped = self._search(network, part, budget, room)
                for query, points in zip(part, found, strict=True):
                    answers.append(_nearest(query, points, (judge_of or replayed)(query)))
                if stopped is not None:
                    raise stopped
        except KeyboardInterrupt as stop:
            missing = len(queries) - len(answers)
            raise NearestInterrupted([*answers, *[Nearest()] * missing]) from stop
        return tuple(answers)

    def _search(
        self, network: TorchNetwork, queries: Sequence[DistanceQuery], budget: Budget, room: int
    ) -> tuple[list[NDArray[np.float32]], KeyboardInterrupt | None]:
        """For each query the points `[M, D]` that its lanes found, before and after the polish.

        And the interruption that ended the search, if one did.
        """
        random = torch.Generator(device=network.device).manual_seed(budget.seed)
        lanes = build_lanes(network, queries, self.restarts, room)
        stages: list[Best] = []
        stopped: KeyboardInterrupt | None = None
        try:
            stages.append(self._descended(lanes, budget, random))
            if self.polish is not None:
                stages.append(self.polish.run(lanes, stages[0], self.method.norm, budget))
        except DescentInterrupted as stop:
            stages, stopped = [stop.best], stop
        except KeyboardInterrupt as stop:
            stages, stopped = stages or [Best.none(lanes)], stop
        # Both, for the query may measure another distance than the method does.
        shape = (len(stages), len(queries), self.restarts)
        points = torch.stack([stage.points for stage in stages]).reshape(*shape, -1)
        found = torch.stack([stage.found for stage in stages]).reshape(shape)
        arrays, kept = points.transpose(0, 1).cpu().numpy(), found.transpose(0, 1).cpu().numpy()
        return [rows[keep] for rows, keep in zip(arrays, kept, strict=True)], stopped

    def _descended(self, lanes: Lanes, budget: Budget, random: torch.Generator) -> Best:
        """From the images, once each class had its turn from elsewhere; then for who found none."""
        every = torch.arange(len(lanes.query), device=lanes.query.device)
        again = every % self.restarts >= lanes.counted.sum(dim=1) + 1
        lanes = thrown(lanes, again, self.restarts, random)
        best = descend(self.method, lanes, budget, random)
        found = best.found.reshape(-1, self.restarts).any(dim=1)
        missing = ~found.repeat_interleave(self.restarts)
        if budget.expired or not bool(missing.any()):
            return best
        rows = missing.nonzero()[:, 0]
        second = lanes_of(thrown(lanes, missing, self.restarts, random), rows)
        try:
            return _placed(best, rows, descend(self.method, second, budget, random))
        except DescentInterrupted as stop:
            raise DescentInterrupted(_placed(best, rows, stop.best)) from stop


def _placed(best: Best, rows: torch.Tensor, late: Best) -> Best:
    return Best(
        best.points.index_copy(0, rows, late.points),
        best.distances.index_copy(0, rows, late.distances),
    )


def room_of(network: TorchNetwork, budget: Budget) -> int:
    """How many points go through the network at a time, and how many lanes lie side by side."""
    values = sum(node.size for node in network.network.nodes)
    limit = min(budget.memory, CPU_CHUNK_BYTES) if network.device.type == "cpu" else budget.memory
    return max(1, int(limit // (_BYTES * (values + _ALIVE * network.network.input_size))))


def _nearest(query: DistanceQuery, points: NDArray[np.float32], judge: OnNearer) -> Nearest:
    """The nearest of the points that the judge accepts."""
    shaped = points.astype(np.float32).reshape(-1, *query.network.input_shape)
    ranked = sorted((query.distance(point), place) for place, point in enumerate(shaped))
    for distance, place in ranked:
        if judge(shaped[place], distance):
            return Nearest(distance, shaped[place])
    return Nearest()


def replayed(query: DistanceQuery) -> OnNearer:
    """The judge that replays a point on the ONNX file."""
    return partial(_counts, query)


def _counts(query: DistanceQuery, point: NDArray[np.float32], distance: float) -> bool:
    witness = replayer(query.network).witness(query.anywhere(), point)
    return witness is not None and witness.breaks
