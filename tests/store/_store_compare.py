"""Equality of records, arrays included."""

from __future__ import annotations

import dataclasses

import numpy as np

from closegap.store import DistanceRecord, Pictures, Record


def same_record(one: Record, other: Record) -> bool:
    """Every field equal, arrays bit for bit with their dtype and shape."""
    names = [f.name for f in dataclasses.fields(Record) if f.name != "pictures"]
    plain = all(getattr(one, n) == getattr(other, n) for n in names)
    order = list(one.engine_seconds) == list(other.engine_seconds)
    return plain and order and _same_pictures(one.pictures, other.pictures)


def _same_pictures(one: Pictures | None, other: Pictures | None) -> bool:
    if one is None or other is None:
        return one is other
    pairs = [(getattr(one, f.name), getattr(other, f.name)) for f in dataclasses.fields(Pictures)]
    return all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in pairs)


def same_distance(one: DistanceRecord, other: DistanceRecord) -> bool:
    """As `same_record`, for distance queries."""
    arrays = ("pictures", "rounded")
    names = [f.name for f in dataclasses.fields(DistanceRecord) if f.name not in arrays]
    if not all(getattr(one, n) == getattr(other, n) for n in names):
        return False
    if one.rounded is None or other.rounded is None:
        return one.rounded is other.rounded and _same_pictures(one.pictures, other.pictures)
    same = one.rounded.dtype == other.rounded.dtype and np.array_equal(one.rounded, other.rounded)
    return same and _same_pictures(one.pictures, other.pictures)
