"""The one place where a query's key is computed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

__all__ = ["canonical_json", "query_key"]


def canonical_json(value: object) -> str:
    """Strict JSON with sorted keys and no spaces: equal values give equal text.

    Raises:
        ValueError: a number is NaN or infinite.
        TypeError: a value is not JSON.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def query_key(
    *,
    model: str,
    inputs: bytes,
    query: Mapping[str, object],
    settings: Mapping[str, object],
) -> str:
    """Digest that names one query of a run: equal iff the same question is asked the same way.

    Args:
        model: SHA-256 of the uncompressed ONNX file, in hex.
        inputs: the image's raw bytes, or the property file's.
        query: what is asked (index, label, radius, norm, ...), JSON values.
        settings: how it is answered (engines, timeout, seed, ...), JSON values.

    Returns:
        64 hexadecimal digits. Every part is hashed on its own first, so that no two different
        questions share a text.
    """
    parts = (
        model.encode(),
        inputs,
        canonical_json(dict(query)).encode(),
        canonical_json(dict(settings)).encode(),
    )
    whole = hashlib.sha256()
    for part in parts:
        whole.update(hashlib.sha256(part).digest())
    return whole.hexdigest()
