"""A network, a region and intermediate bounds, written as a linear or mixed-integer program.

Affine ops are composed, so that only inputs and undecided units have columns. One file for each
activation in `rules`.
"""

from __future__ import annotations

from closegap.encode.composer import Bounds, EncodeOptions, Purpose
from closegap.encode.encoded import EncodedNetwork
from closegap.encode.encoder import encode

__all__ = [
    "Bounds",
    "EncodeOptions",
    "EncodedNetwork",
    "Purpose",
    "encode",
]
