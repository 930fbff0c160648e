"""A network, a region and intermediate bounds, written as a linear or mixed-integer program.

Affine ops are composed, so that only inputs and undecided units have columns. One file for each
activation in `rules`.
"""

from __future__ import annotations

from closegap.encode.composer import Bounds, EncodeOptions, Purpose
from closegap.encode.encoded import EncodedLayer, EncodedNetwork
from closegap.encode.encoder import encode, encode_layer

__all__ = [
    "Bounds",
    "EncodeOptions",
    "EncodedLayer",
    "EncodedNetwork",
    "Purpose",
    "encode",
    "encode_layer",
]
