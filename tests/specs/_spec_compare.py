"""Equality of specifications, to the last bit."""

from __future__ import annotations

from closegap.specs.vnnlib import Spec

__all__ = ["same"]


def same(left: Spec, right: Spec) -> bool:
    """Equal cases in equal order, names included; source and digest do not count."""
    counts = [(spec.inputs, spec.outputs) for spec in (left, right)]
    return counts[0] == counts[1] and _bits(left) == _bits(right)


def _bits(spec: Spec) -> list[tuple[object, ...]]:
    return [
        (
            *(a.tobytes() for a in (case.box.lower, case.box.upper, case.prop.rows)),
            *(a.tobytes() for a in (case.prop.offsets, case.prop.clause)),
            case.prop.names,
            case.prop.strict,
        )
        for case in spec.cases
    ]
