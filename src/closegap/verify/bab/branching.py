"""Choosing the units to split: estimates alone, or shortlists with a real bound of both children.

Source: De Palma et al., Improved branch and bound for neural network verification via Lagrangian
decomposition, 2021 (FSB); kFSB as in the beta-CROWN verifier.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from closegap.branching.costs import cost_adjusted
from closegap.branching.evidence import Evidence
from closegap.branching.gains import GAINS
from closegap.branching.guided import disagreement, guided
from closegap.branching.options import AT_REST, FILTERS, SCORERS, BranchingOptions
from closegap.branching.shortlist import best_of_all, best_of_each_layer
from closegap.core.numerics import TINY
from closegap.graph.network import Node
from closegap.verify.bab.bounder import DomainBounder
from closegap.verify.bab.domains import DomainBatch, DomainResult
from closegap.verify.bab.problem import SplitProblem
from closegap.verify.bab.units import cut_points, is_hinge, open_units, relief
from closegap.verify.bab.worth import FilterWorth

__all__ = ["Brancher"]

#: The estimate that `auto` goes by where it does not filter; first of every shortlist.
_ALONE = "acs"
#: Of units whose gain is not finite: they come last, and before the places where no unit is.
_NO_GAIN = float(np.finfo(np.float64).min)


class Brancher:
    """Ranks the units of subdomains.

    Args:
        problem: what the subdomains share.
        bounder: bounds children quickly.
        options: how units are chosen.
        candidates: inputs near a counterexample, `[M, *input shape]`, for guidance.
        costs: what a split at each layer costs, `[layers]`; `None` if the same everywhere.

    Attributes:
        steady: choose by what is asked only, never by the time it takes.
    """

    def __init__(
        self,
        problem: SplitProblem,
        bounder: DomainBounder,
        options: BranchingOptions,
        candidates: NDArray[np.floating] | None = None,
        costs: Float[Tensor, " L"] | None = None,
    ) -> None:
        self._problem = problem
        self._bounder = bounder
        self._options = options
        self._costs = costs if options.cost_adjusted else None
        self._worth = FilterWorth()
        self.steady = False
        nodes = problem.exact.network.nodes
        self._nodes = [nodes[layer.activation] for layer in problem.layers]
        self._bias = torch.cat([torch.zeros(0).double(), *(x.bias for x in problem.layers)])
        sizes = torch.tensor([len(layer.indices) for layer in problem.layers], dtype=torch.int64)
        self._layer = torch.arange(len(sizes)).repeat_interleave(sizes)
        hinges = torch.tensor([is_hinge(node.op) for node in self._nodes], dtype=torch.bool)
        self._hinge = None if bool(hinges.all()) else hinges[self._layer]
        self._votes: Tensor | None = None
        if options.guided and candidates is not None and len(candidates):
            self._votes = disagreement(_phases(problem, candidates))

    @property
    def width(self) -> int:
        """Units ranked for each subdomain."""
        return 2 * self._options.count

    def rank(self, batch: DomainBatch, result: DomainResult) -> Int[np.ndarray, "B width"]:
        """Units of each domain, best first, without repeats; -1 fills the rest.

        Args:
            batch: with the warm starts that `result` ended with.
            result: of the same domains.
        """
        self._worth.begin()
        evidence = self._evidence(result)
        name, auto = self._options.name, self._options.name == "auto"
        if name not in FILTERS or (auto and not self._filters(evidence)):
            table = self._table(_ALONE if auto else name, evidence, batch)
            units = best_of_all([table], self.width)
            ranked = np.asarray(units.numpy())
        else:
            ranked = self._filtered(self._shortlist(evidence, batch), batch, result)
        self._worth.end()
        wide = np.full((len(ranked), self.width), -1)
        wide[:, : ranked.shape[1]] = ranked[:, : self.width]
        return wide

    def _filters(self, evidence: Evidence) -> bool:
        """Whether `auto` filters.

        Where all units are ReLUs the estimate alone chooses as well. Not under rows over several
        units: what a split gains there comes with new multipliers of rows, which quick bounds do
        not seek.
        """
        rough = self._hinge is not None and evidence.residual is None
        return rough and (self.steady or self._worth.filtering)

    def points(
        self, result: DomainResult, ranked: Int[np.ndarray, "B width"]
    ) -> Float[np.ndarray, "B width"]:
        """Where to split the ranked units."""
        if self._hinge is None or not ranked.shape[0]:
            return np.zeros(ranked.shape)

        def cut(node: Node, place: slice) -> Tensor:
            lower, upper = result.unit_lower[:, place], result.unit_upper[:, place]
            return cut_points(node.op, lower, upper, self._options.cut)

        every = np.asarray(self._by_layer(cut, result).numpy())
        return np.take_along_axis(every, np.maximum(ranked, 0), axis=1)

    def _evidence(self, result: DomainResult) -> Evidence:
        lower, upper = result.unit_lower, result.unit_upper

        def is_open(node: Node, place: slice) -> Tensor:
            return open_units(node.op, lower[:, place], upper[:, place])

        def gain(node: Node, place: slice) -> Tensor:
            incoming = result.incoming[:, place]
            if is_hinge(node.op):
                return torch.zeros_like(incoming)
            return relief(node, incoming, lower[:, place], upper[:, place], self._options.cut)

        return Evidence(
            incoming=result.incoming,
            lower=lower,
            upper=upper,
            open=self._by_layer(is_open, result).bool(),
            bias=self._bias,
            layer=self._layer,
            relief=None if self._hinge is None else self._by_layer(gain, result),
            hinge=self._hinge,
            residual=result.residual,
        )

    def _by_layer(self, rule: Callable[[Node, slice], Tensor], result: DomainResult) -> Tensor:
        """Tables `[B, units of a layer]` side by side: `[B, U]`."""
        parts = [torch.zeros(len(result.lower), 0, dtype=torch.float64)]
        for node, layer in zip(self._nodes, self._problem.layers, strict=True):
            parts.append(rule(node, layer.units).double())
        return torch.cat(parts, dim=1)

    def _shortlist(self, evidence: Evidence, batch: DomainBatch) -> Int[np.ndarray, "B candidates"]:
        tables = [self._table(name, evidence, batch) for name in (_ALONE, "babsr")]
        if self._options.name == "fsb":
            return np.asarray(best_of_each_layer(tables, self._layer).numpy())
        return np.asarray(best_of_all(tables, self._options.count).numpy())

    def _table(self, name: str, evidence: Evidence, batch: DomainBatch) -> Tensor:
        """Scores after guidance and costs; positive exactly where a unit is open."""
        if name in AT_REST and (self._hinge is None or bool(self._hinge.any())):
            evidence = replace(evidence, resting=self._bounder.inputs_at_rest(batch))
        scores = SCORERS[name](evidence)
        if self._votes is not None:
            scores = guided(scores, self._votes)
        if self._costs is not None:
            scores = cost_adjusted(scores, self._costs, self._layer)
        return torch.where(evidence.open, scores.nan_to_num().clamp(min=TINY), 0.0)

    def _filtered(
        self,
        units: Int[np.ndarray, "B candidates"],
        batch: DomainBatch,
        result: DomainResult,
    ) -> Int[np.ndarray, "B candidates"]:
        """The shortlist in the order of what bounds of both children gain."""
        which, column = np.nonzero(units >= 0)
        if not len(which):
            return units
        chosen = units[which, column]
        points = self.points(result, units)[which, column]
        parent = np.where(np.isfinite(result.lower), result.lower, 0.0)
        first, second = (
            self._bounder.glance(batch.children(which, chosen, sign, points)) - parent[which]
            for sign in (1, -1)
        )
        gains = np.full(units.shape, -np.inf)
        with np.errstate(invalid="ignore"):  # bounds that overflow float32 have no gain
            found = GAINS[self._options.gain](first, second)
        gains[which, column] = np.nan_to_num(found, nan=_NO_GAIN, neginf=_NO_GAIN)
        self._worth.learn(gains, parent)
        if self._costs is not None:
            gains = np.asarray(gains.clip(min=TINY) / self._costs.numpy()[self._layer[units]])
            gains[units < 0] = -np.inf
        order = np.argsort(-gains, axis=1, kind="stable")
        return np.take_along_axis(units, order, axis=1)


def _phases(problem: SplitProblem, candidates: NDArray[np.floating]) -> Bool[Tensor, "M U"]:
    """Which units each candidate switches on."""
    network = problem.search
    shape = network.network.input_shape
    with torch.no_grad():
        values = network.values(network.tensor(candidates.reshape(len(candidates), *shape)))
    parts = [values[layer.feed].flatten(1)[:, layer.indices] >= 0 for layer in problem.layers]
    return torch.cat([torch.zeros(len(candidates), 0, dtype=torch.bool), *parts], dim=1)
