"""What the duals of a program with cuts say about each ReLU: one row without its phase.

Of all rows about one ReLU (`positive <= u phase`, `negative <= -l (1 - phase)` and its cuts) the
duals make one: weighted with them they sum to a row in which the phase does not count, for at an
optimum the duals balance there what is gained and lost by it. Such a row ties a ReLU's output to
its inputs alone, so any bound over the network's nodes can use it; with all of them at multiplier 1
a backward pass comes near the program's own bound.

Source: Zhang et al., General Cutting Planes for Bound-Propagation-Based Neural Network
Verification, NeurIPS 2022, which keeps cuts and phases as they are.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy.sparse import csr_array, diags_array

from closegap.bounds.constraints import CutPart, LinearCuts
from closegap.core.numerics import CUT_VIOLATION, TINY, gamma
from closegap.encode.expression import place
from closegap.encode.reduced import ReducedNetwork
from closegap.graph.network import Network
from closegap.verify.cutting.program import CutProgram, Rows

__all__ = ["on_network", "phaseless_rows"]

Array = NDArray[np.float64]


def phaseless_rows(
    program: CutProgram,
    cuts: csr_array,
    upper: Float[np.ndarray, "M"],
    owner: Int[np.ndarray, "M"],
    duals: Float[np.ndarray, "R"],
) -> Rows | None:
    """One row for each ReLU of which cuts carry duals: `weight @ [inputs, positive] <= -bias`.

    Args:
        program: without cuts.
        cuts: `[M, V]`, `cuts @ columns <= upper`.
        upper: see `cuts`.
        owner: the ReLU of each cut.
        duals: of the program's rows, then of the cuts; of any sign, those out of range are left.

    Returns:
        rows with `slack` zero, their `bias` already lowered by what rounding may have moved; `None`
        where no cut carries a dual.
    """
    layout, model = program.layout, program.model
    count, base, width = layout.units, model.rows, layout.inputs + layout.units
    held = np.where(np.isfinite(duals), np.maximum(-duals, 0.0), 0.0)
    high, low = model.upper[layout.positive], -model.upper[layout.negative]
    on, off, cut = held[count : 2 * count], held[2 * count : base], held[base:]
    blend = place(owner, np.arange(len(owner)), cut, (count, len(owner)))
    leaned = np.flatnonzero(blend.sum(axis=1) > CUT_VIOLATION)
    if not len(leaned):
        return None
    own = csr_array(diags_array(on + off))
    shift = place(np.arange(count), layout.inputs + np.arange(count), 1.0, (count, width))
    fed = csr_array(diags_array(off)) @ program.units.weight
    mixed = csr_array(blend @ cuts)
    weight = csr_array(mixed[:, :width] + own @ shift - fed)
    phase = mixed[:, layout.phase].diagonal() - high * on - low * off
    right = blend @ upper - low * off + off * (program.units.bias + program.units.slack)
    # Sizes of all terms of each row at any point of the box, for the rounding of every sum above.
    columns = np.maximum(np.abs(model.lower), np.abs(model.upper))
    terms = blend @ (abs(cuts) @ columns + np.abs(upper)) + (on + off) * columns[layout.positive]
    terms += off * (abs(program.units.weight) @ columns[:width])
    terms += off * (np.abs(low) + np.abs(program.units.bias) + program.units.slack)
    terms += np.abs(high) * on + np.abs(low) * off
    lost = 8 * gamma(len(owner) + width + 16) * terms + TINY
    limit = right - np.minimum(phase, 0.0) + lost
    finite = np.isfinite(limit) & np.isfinite(abs(weight).sum(axis=1))
    kept = leaned[finite[leaned]]
    return Rows(csr_array(weight[kept]), -limit[kept], np.zeros(len(kept)))


def on_network(
    rows: Rows, program: CutProgram, reduced: ReducedNetwork, network: Network
) -> LinearCuts:
    """The same rows over the inputs and activations of the network that was reduced."""
    inputs = program.layout.inputs
    parts = [_part(rows, 0, network, program.used, np.arange(inputs))]
    first = inputs
    after = _activation_of(network)
    for feed in sorted(reduced.origin):
        source, places = reduced.origin[feed]
        columns = first + np.arange(len(places))
        parts.append(_part(rows, after[source], network, places, columns))
        first += len(places)
    used = tuple(part for part in parts if len(part.neurons))
    return LinearCuts(used, torch.as_tensor(-rows.bias))


def _activation_of(network: Network) -> Mapping[int, int]:
    """The activation behind each feeding node."""
    return {network.nodes[i].inputs[0]: i for i in network.activations}


def _part(
    rows: Rows, node: int, network: Network, places: NDArray[np.int64], columns: NDArray[np.int64]
) -> CutPart:
    """What rows say about some columns, those they do not read left out."""
    weights = csr_array(rows.weight[:, columns]).tocoo()
    weights.eliminate_zeros()
    read, column = np.unique(weights.col, return_inverse=True)
    held = torch.sparse_coo_tensor(
        torch.as_tensor(np.stack([weights.row.astype(np.int64), column])),
        torch.as_tensor(weights.data),
        (weights.shape[0], len(read)),
        check_invariants=False,
    )
    neurons = torch.as_tensor(places[read].astype(np.int64))
    return CutPart(node, network.nodes[node].shape, neurons, held.coalesce())
