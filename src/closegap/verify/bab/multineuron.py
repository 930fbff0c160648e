"""Multi-neuron constraints for branch and bound: groups chosen where the roots' bounds lose most.

Source: Ferrari et al., Complete Verification via Multi-Neuron Relaxation Guided Branch-and-Bound,
ICLR 2022; hulls in vertex form (`bounds/multineuron`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from closegap.bounds.backward import BackwardPass
from closegap.bounds.multineuron.build import make_hulls, violated
from closegap.bounds.multineuron.cover import correlated_pairs, sparse_cover
from closegap.bounds.multineuron.hulls import VertexHulls
from closegap.bounds.optimise import AscentOptions, MixedPrecision
from closegap.bounds.records import Parameters
from closegap.bounds.regions import least
from closegap.core.budget import Budget
from closegap.verify.bab.problem import Layer, SplitProblem
from closegap.verify.bab.units import is_hinge

__all__ = ["MultiNeuronOptions", "multi_neuron_hulls"]


@dataclass(frozen=True)
class MultiNeuronOptions:
    """Which groups of neurons are bounded together.

    Attributes:
        size: neurons a group, two or three.
        units: of each layer, the neurons considered: those where the roots' bounds lose most.
        groups: candidates a layer, at most.
        kept: groups a layer whose hull cuts off what the roots' bounds rest on, at most.
        octahedra: climbing on the slopes of each sum and difference; `None` for plain CROWN.
        climb: on the roots once the groups are found; short steps, for the slopes are good already
            and the first steps of so many multipliers lose before they gain.
        share: of the time that is left that finding them may take.
    """

    size: int = 3
    units: int = 40
    groups: int = 150
    kept: int = 100
    octahedra: AscentOptions | None = None
    climb: AscentOptions = field(
        default_factory=lambda: AscentOptions(
            iterations=120, slope_rate=0.02, weight_rate=0.03, decay=0.98, patience=120
        )
    )
    share: float = 0.2


@dataclass(frozen=True, eq=False)
class _Resting:
    """Where the roots' bounds are attained, by feeding node, for every row of every root.

    Attributes:
        inputs: of each neuron, `[rows, N]`.
        outputs: likewise.
        incoming: the coefficient on each neuron's output, `[rows, N]`.
    """

    inputs: dict[int, Tensor]
    outputs: dict[int, Tensor]
    incoming: dict[int, Tensor]


def multi_neuron_hulls(
    problem: SplitProblem,
    roots: Int[np.ndarray, "B"],
    slopes: Parameters,
    options: MultiNeuronOptions,
    budget: Budget,
) -> tuple[VertexHulls, ...]:
    """One set of hulls a layer, where any hull cuts off what the roots' bounds rest on.

    Args:
        problem: network, region and bounds.
        roots: numbers of those that the groups shall help.
        slopes: of their bounds, float32, `[B, Q, ...]`.
        options: how many, how large.
        budget: see `MultiNeuronOptions.share`.
    """
    limited = budget.within(options.share * budget.remaining)
    exact = BackwardPass(problem.exact, problem.bounds, problem.values, problem.slack)
    optimiser = None
    if options.octahedra is not None:
        optimiser = MixedPrecision(problem.search, problem.search_region, options.octahedra)
    rest = _resting_point(problem, torch.as_tensor(roots), slopes)
    found = []
    for layer in problem.layers:
        if not is_hinge(problem.exact.network.nodes[layer.activation].op):
            continue
        groups = _groups(problem, layer, rest, options)
        if not len(groups) or limited.expired:
            continue
        hulls = make_hulls(
            exact, problem.exact_region, layer.activation, groups, limited, optimiser
        )
        feed = layer.feed
        prices = rest.incoming[feed].abs().amax(dim=0)
        kept = violated(hulls, rest.inputs[feed], rest.outputs[feed], prices)[: options.kept]
        if len(kept):
            scale = float(prices[hulls.members[kept]].mean())
            found.append(_chosen(hulls, kept, scale))
    return tuple(found)


def _chosen(hulls: VertexHulls, kept: Tensor, scale: float) -> VertexHulls:
    return replace(
        hulls,
        members=hulls.members[kept],
        lifted=hulls.lifted[kept],
        tolerance=hulls.tolerance[kept],
        scale=scale,
    )


def _groups(
    problem: SplitProblem, layer: Layer, rest: _Resting, options: MultiNeuronOptions
) -> np.ndarray:
    """Groups of one layer, flat indices of its node, `[G, k]`."""
    interval = problem.bounds[layer.feed]
    lower, upper = (side[0].flatten()[layer.indices] for side in (interval.lower, interval.upper))
    incoming = rest.incoming[layer.feed][:, layer.indices]
    chord = upper / (upper - lower)
    losses = (incoming.clamp(max=0) * lower * chord).amax(dim=0)
    losses = torch.where(torch.isfinite(losses), losses, 0.0)
    best = losses.argsort(descending=True)[: options.units]
    best = best[losses[best] > 0]
    if len(best) < options.size:
        return np.zeros((0, options.size), np.int64)
    neurons = layer.indices[best]
    pairs = correlated_pairs(_as_inputs(problem, layer.feed, neurons), losses[best].numpy())
    cover = sparse_cover(pairs, options.size, options.groups)
    return np.asarray(neurons.numpy()[cover])


def _as_inputs(problem: SplitProblem, feed: int, neurons: Tensor) -> np.ndarray:
    """Each neuron's lower line as a function of the input, in units of the inputs' ranges."""
    shape = problem.exact.network.nodes[feed].shape
    rows = torch.zeros(len(neurons), problem.exact.network.nodes[feed].size, dtype=torch.float64)
    rows[torch.arange(len(neurons)), neurons] = 1.0
    with torch.no_grad():
        linear = BackwardPass(problem.exact, problem.bounds).run(
            feed, rows.reshape(1, len(neurons), *shape)
        )
    region = problem.exact_region
    range_ = (region.upper - region.lower).flatten()
    return np.asarray((linear.coefficients[0].flatten(1) * range_).numpy())


def _resting_point(problem: SplitProblem, roots: Tensor, slopes: Parameters) -> _Resting:
    """The derivative of a dual bound with respect to a coefficient is the value it multiplies."""
    nodes = problem.search.network.nodes
    rows = problem.rows[roots].float()
    probes = {}
    for layer in problem.layers:
        for node in (layer.feed, layer.activation):
            shape = (*rows.shape[:2], *nodes[node].shape)
            probes[node] = torch.zeros(shape, requires_grad=True)
    bounds = {i: b.to(torch.float32) for i, b in problem.bounds.items()}
    linear = BackwardPass(problem.search, bounds).run(
        problem.search.network.output,
        rows,
        Parameters(slopes.slopes, probes),
        keep_incoming=True,
    )
    value = least(problem.search_region, linear.coefficients)[0] + linear.constant
    slopes_of = torch.autograd.grad(value.sum(), list(probes.values()))
    at = {i: -_flat(g) for i, g in zip(probes, slopes_of, strict=True)}
    return _Resting(
        inputs={layer.feed: at[layer.feed] for layer in problem.layers},
        outputs={layer.feed: at[layer.activation] for layer in problem.layers},
        incoming={y.feed: _flat(linear.incoming[y.activation]) for y in problem.layers},
    )


def _flat(rows: Tensor) -> Tensor:
    """`[B, Q, *shape] -> [B Q, N]`, in float64."""
    return rows.detach().flatten(0, 1).flatten(1).double()
