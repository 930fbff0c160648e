"""Max over the last axis: one binary for each entry that can be the greatest of its window."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from closegap.encode.expression import Expression, place
from closegap.encode.rules.site import Site
from closegap.encode.units import MaxUnits, NoPhases, Phases
from closegap.graph import ops

__all__ = ["encode_max"]


def encode_max(op: ops.Max, z: Expression, site: Site) -> Expression:
    """The greatest entry of each window.

    Entries dominated by another one's lower bound are dropped; a window with one entry left is
    that entry. For the others `greatest = z_j + shortfall_j`, with
    `0 <= shortfall_j <= range_j (1 - chosen_j)` and `sum_j chosen_j = 1`, where
    `range_j = max_{i != j} u_i - l_j`. Relaxed, the binaries are eliminated:
    `sum_j shortfall_j / range_j <= count - 1`.

    Source: Tjeng et al. (2019), section 4.1, with the pre-activation written once.
    """
    site.refuse_phases("Max")
    builder = site.builder
    size = site.shape[-1]
    lower, upper = (b.reshape(-1, size) for b in (site.lower, site.upper))
    kept, leader = _contenders(lower, upper)
    decided = kept.sum(axis=1) == 1
    contested = np.flatnonzero(~decided)
    # pairs (window, entry) of the undecided windows
    window, place_in = np.nonzero(kept[contested])
    entries = contested[window] * size + place_in
    candidates = z.rows(entries)
    greatest = builder.add_columns(lower.max(axis=1)[contested], upper.max(axis=1)[contested])
    others = _greatest_other(np.where(kept, upper, -np.inf)[contested])
    reach = others[window, place_in] - site.lower[entries]
    shortfall = builder.add_columns(np.zeros(len(entries)), reach)
    builder.add_rows(
        builder.picked(greatest[window]) - builder.picked(shortfall) - builder.wide(candidates),
        candidates.constant,
        candidates.constant,
    )
    phases = NoPhases
    if site.relax:
        shares = place(window, shortfall, 1.0 / reach, (len(contested), builder.columns))
        builder.add_rows(shares, -np.inf, kept[contested].sum(axis=1) - 1.0)
    else:
        phases = Phases(site.node, entries, builder.add_binaries(len(entries)))
        limit = builder.picked(shortfall) + builder.picked(phases.columns, reach)
        builder.add_rows(limit, -np.inf, reach)
        chosen = place(window, phases.columns, 1.0, (len(contested), builder.columns))
        builder.add_rows(chosen, 1.0, 1.0)
    site.units.append(MaxUnits(site.node, greatest, window, candidates, shortfall, phases))
    easy = np.flatnonzero(decided)
    pick = place(easy, easy * size + leader[easy], 1.0, (len(lower), len(z)))
    matrix = pick @ builder.wide(z) + place(contested, greatest, 1.0, (len(lower), builder.columns))
    return Expression(csr_array(matrix), np.asarray(pick @ z.constant))


def _contenders(
    lower: NDArray[np.float64], upper: NDArray[np.float64]
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Which entries of each window can be its greatest, and the one with the best lower bound."""
    leader = lower.argmax(axis=1)
    rows = np.arange(len(lower))
    kept = upper > lower[rows, leader][:, None]
    kept[rows, leader] = True
    return kept, leader


def _greatest_other(upper: NDArray[np.float64]) -> NDArray[np.float64]:
    """For each entry the greatest of the others in its row."""
    if not len(upper):
        return upper
    order = np.sort(upper, axis=1)
    best, second = order[:, -1:], order[:, -2:-1]
    is_best = np.zeros(upper.shape, dtype=bool)
    is_best[np.arange(len(upper)), upper.argmax(axis=1)] = True
    return np.where(is_best, second, best)
