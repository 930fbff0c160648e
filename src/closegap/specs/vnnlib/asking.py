"""A specification asked of a network."""

from __future__ import annotations

import numpy as np

from closegap.core.errors import SpecError
from closegap.core.numerics import float32_outward
from closegap.graph.network import Network
from closegap.specs.query import Query
from closegap.specs.region import Box
from closegap.specs.vnnlib.spec import Spec

__all__ = ["queries"]


def queries(spec: Spec, network: Network, name: str = "") -> tuple[Query, ...]:
    """One query a case. The specification is sat iff one is falsified, unsat iff all are verified.

    Boxes take the network's input shape, and are widened just enough to hold every float32 point
    that `contains` accepts: a fixed input such as 0.1 stands for the nearest float32 number.

    Args:
        spec: as read.
        network: what it is asked of.
        name: of the queries; the specification's own if empty. Several are told apart by `#1`, ...

    Raises:
        SpecError: the counts of inputs or outputs differ from the network's, or a bound is beyond
            the range of float32.
    """
    for what, wanted, has in (
        ("inputs (X)", spec.inputs, network.input_size),
        ("outputs (Y)", spec.outputs, network.output_size),
    ):
        if wanted != has:
            raise SpecError(
                f"speaks of {wanted} {what}, but the network {network.source} has {has}; is it "
                "the property of another network?",
                source=spec.source,
            )
    name = name or spec.name
    several = len(spec.cases) > 1
    return tuple(
        Query(
            network,
            _float32_box(spec, case.box, network.input_shape),
            case.prop,
            f"{name}#{number}" if several else name,
        )
        for number, case in enumerate(spec.cases, start=1)
    )


def _float32_box(spec: Spec, box: Box, shape: tuple[int, ...]) -> Box:
    most = float(np.finfo(np.float32).max)
    beyond = np.maximum(np.abs(box.lower), np.abs(box.upper)) > most
    if beyond.any():
        raise SpecError(
            f"X_{int(np.argmax(beyond))} has a bound beyond the range of float32 ({most:g}), "
            "in which networks are evaluated; write a smaller one",
            source=spec.source,
        )
    lower, upper = float32_outward(box.lower, box.upper)
    return Box(lower.reshape(shape), upper.reshape(shape))
