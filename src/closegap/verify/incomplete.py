"""Verification by linear bounds alone: CROWN, and alpha-CROWN with optimised slopes.

The search for slopes runs in float32; every bound that is returned was evaluated in float64 with
its rounding subtracted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from closegap.bounds.backward import BackwardPass
from closegap.bounds.intermediate import NetworkBounds, bound_activations
from closegap.bounds.optimise import Ascent, AscentOptions, MixedPrecision, in_dtype
from closegap.bounds.records import LinearBound, Parameters
from closegap.bounds.regions import InputSet, input_set, least, minimiser
from closegap.core.budget import Budget
from closegap.core.numerics import FLOAT64_UNIT
from closegap.runtime.cache import compiled
from closegap.runtime.torch_network import TorchNetwork
from closegap.specs.query import Query
from closegap.specs.region import Prices

__all__ = ["AlphaOptions", "LinearVerifier", "RowBounds"]


@dataclass(frozen=True)
class AlphaOptions:
    """How much alpha-CROWN may do.

    Attributes:
        final: climbing on the property's rows.
        inner: climbing on the rows of undecided neurons.
        rounds: times the inner bounds are improved; each makes the next one's start better.
    """

    final: AscentOptions = field(default_factory=lambda: AscentOptions(iterations=60))
    inner: AscentOptions = field(
        default_factory=lambda: AscentOptions(iterations=6, slope_rate=0.5, decay=0.9, patience=4)
    )
    rounds: int = 1


@dataclass(frozen=True, eq=False)
class RowBounds:
    """What a bounding call found.

    Attributes:
        lower: float64 `[Q]`, proved lower bounds of the rows' margins (minus infinity where none).
        candidates: float64 `[Q, *input shape]`: where each row's linear bound is least.
        parameters: the slopes behind `lower`, float64, `[1, Q, ...]`.
    """

    lower: NDArray[np.float64]
    candidates: NDArray[np.float64]
    parameters: Parameters


class LinearVerifier:
    """One query's network and region in both precisions.

    Args:
        query: what to bound.
        device: where the work is done.
        slack: by node, see `BackwardPass`; bounds of activations must then be given.
        prices: see `input_set`; of the query's region only inputs within them count.
    """

    def __init__(
        self,
        query: Query,
        *,
        device: str = "cpu",
        slack: Mapping[int, Tensor] | None = None,
        prices: Prices | None = None,
    ) -> None:
        self.query = query
        self._slack = slack or {}
        self.exact: TorchNetwork = compiled(query.network, torch.float64, device)
        self.search: TorchNetwork = compiled(query.network, torch.float32, device)
        self.exact_region: InputSet = input_set(self.exact, query.region, prices)
        self.search_region: InputSet = input_set(self.search, query.region, prices)

    def activations(
        self,
        budget: Budget,
        known: NetworkBounds | None = None,
        options: AscentOptions | None = None,
    ) -> NetworkBounds:
        """Bounds on every activation's input, in float64, never looser than `known`.

        Args:
            budget: when it ends, what is left keeps its interval bounds.
            known: bounds that already hold.
            options: climb on each undecided neuron's slopes; `None` for plain CROWN.

        Raises:
            ValueError: the network has slack, which intervals do not count.
        """
        if self._slack:
            raise ValueError("intervals do not count slack; bound the network it was made of")
        optimiser = None
        if options is not None:
            optimiser = MixedPrecision(self.search, self.search_region, options)
        return bound_activations(
            self.exact,
            self.exact_region,
            budget,
            known=None if known is None else known.activations,
            optimiser=optimiser,
        )

    def rows(
        self,
        bounds: NetworkBounds,
        budget: Budget,
        which: NDArray[np.int64],
        options: AscentOptions | None = None,
    ) -> RowBounds:
        """Proved lower bounds of some of the property's rows.

        Args:
            bounds: of the activations.
            budget: its deadline ends the climb; the last evaluation is always made.
            which: indices of rows.
            options: climb on the slopes; `None` for the rules' defaults.
        """
        linear, parameters = self._propagated(bounds, budget, which, options)
        with torch.no_grad():
            value, rounding = least(self.exact_region, linear.coefficients)
            total = value + linear.constant
            total = total - 2 * (rounding + linear.rounding) - 4 * FLOAT64_UNIT * total.abs()
            total = torch.where(torch.isfinite(total), total, -torch.inf)
            points = minimiser(self.exact_region, linear.coefficients)
        return RowBounds(_numpy(total[0]), _numpy(points[0]), parameters)

    def planes(
        self,
        bounds: NetworkBounds,
        budget: Budget,
        which: NDArray[np.int64],
        options: AscentOptions | None = None,
    ) -> tuple[Float[np.ndarray, "Q D"], Float[np.ndarray, "Q"]]:
        """Planes below some of the property's rows, from any origin.

        Args:
            bounds, budget, which, options: as for `rows`.

        Returns:
            slopes and constants: on the region every margin is at least `slopes . x + constants`
            in exact arithmetic, unless they are not finite.
        """
        linear, _ = self._propagated(bounds, budget, which, options)
        slopes, constant = _numpy(linear.coefficients[0]), _numpy(linear.constant[0])
        lost = 2 * _numpy(linear.rounding[0]) + 4 * FLOAT64_UNIT * np.abs(constant)
        return slopes.reshape(len(which), -1), constant - lost

    def _propagated(
        self,
        bounds: NetworkBounds,
        budget: Budget,
        which: NDArray[np.int64],
        options: AscentOptions | None,
    ) -> tuple[LinearBound, Parameters]:
        """Rows with their offsets, as functions of the input."""
        output = self.query.network.output
        shape = self.query.network.nodes[output].shape
        rows = self.exact.tensor(self.query.prop.rows[which]).reshape(1, len(which), *shape)
        offsets = self.exact.tensor(self.query.prop.offsets[which])[None]
        parameters = Parameters()
        if options is not None:
            parameters = self._climb(bounds, budget, rows, offsets, options)
        bounder = BackwardPass(self.exact, bounds.activations, bounds.values, self._slack)
        with torch.no_grad():
            linear = bounder.run(output, rows, parameters)
            rounding = linear.rounding + 2 * FLOAT64_UNIT * offsets.abs()
            return replace(
                linear, constant=linear.constant + offsets, rounding=rounding
            ), parameters

    def _climb(
        self,
        bounds: NetworkBounds,
        budget: Budget,
        rows: Tensor,
        offsets: Tensor,
        options: AscentOptions,
    ) -> Parameters:
        dtype = self.search.dtype
        search = BackwardPass(self.search, {i: b.to(dtype) for i, b in bounds.activations.items()})
        result = Ascent(self.search_region, options).run(
            search,
            self.query.network.output,
            rows.to(dtype),
            budget,
            offsets=offsets.to(dtype),
        )
        return in_dtype(result.parameters, self.exact.dtype)


def _numpy(tensor: Tensor) -> NDArray[np.float64]:
    return np.asarray(tensor.detach().cpu().numpy(), dtype=np.float64)
