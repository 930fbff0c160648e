"""Write a clause of a query as a program."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array

from closegap.encode.builder import ModelBuilder
from closegap.encode.composer import Bounds, Composer, EncodeOptions, PhaseMap
from closegap.encode.encoded import EncodedNetwork
from closegap.encode.expression import Expression
from closegap.encode.units import ObjectiveUnits, Units
from closegap.specs.query import Query

__all__ = ["encode"]


def encode(
    query: Query,
    bounds: Bounds,
    *,
    clause: int,
    options: EncodeOptions | None = None,
    phases: PhaseMap | None = None,
) -> EncodedNetwork:
    """Minimise one clause's margin over the region.

    The margin of a clause of several rows is the greatest of theirs: a column above all of them.

    Args:
        query: what to encode.
        bounds: sound over the region for every pre-activation node; the tighter, the fewer
            binaries and the better the relaxation.
        clause: of the property, from 0.
        options: see `EncodeOptions`.
        phases: fixed activations, which restrict the region to the points that have them.

    Raises:
        EncodingError: a bound is missing or not finite, the network is too large to be written
            out, or phases are fixed of an activation that has none.
    """
    settings = EncodeOptions() if options is None else options
    composer = Composer(query.network, query.region, bounds, settings, phases or {})
    outputs = composer.value(query.network.output)
    chosen = query.prop.clause == clause
    if not chosen.any():
        raise ValueError(f"clause {clause} of {query.prop.clauses} does not exist")
    rows = csr_array(query.prop.rows[chosen])
    margin = Expression(
        csr_array(rows @ outputs.matrix),
        np.asarray(rows @ outputs.constant + query.prop.offsets[chosen]),
    )
    objective = _objective(margin, composer.builder, composer.units)
    inexact = set(composer.inexact) | ({"integrality is left out"} if settings.relax else set())
    return EncodedNetwork(
        model=composer.builder.build(_row(objective), float(objective.constant[0])),
        query=query,
        clause=clause,
        inputs=composer.inputs,
        margin=margin,
        units=tuple(composer.units),
        inexact=tuple(sorted(inexact)),
    )


def _row(expression: Expression) -> np.ndarray:
    return np.asarray(expression.matrix.toarray()[0])


def _objective(margin: Expression, builder: ModelBuilder, units: list[Units]) -> Expression:
    """What to minimise: the only row, or a column that is at least every row."""
    if len(margin) == 1:
        return margin
    low, high = margin.span(builder.lower, builder.upper)
    column = builder.add_columns(low.max(keepdims=True), high.max(keepdims=True))
    above = builder.picked(np.repeat(column, len(margin))) - builder.wide(margin)
    builder.add_rows(above, margin.constant, np.inf)
    units.append(ObjectiveUnits(margin, column))
    return Expression(builder.picked(column), np.zeros(1))
