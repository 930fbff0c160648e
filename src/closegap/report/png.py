"""A PNG writer for small pictures. Source: the PNG specification (ISO/IEC 15948)."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np
from jaxtyping import UInt8

__all__ = ["data_uri", "encode"]

_GREY, _RGB = 0, 2
_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def encode(pixels: UInt8[np.ndarray, "height width channels"]) -> bytes:
    """A PNG file of an 8-bit picture with one (grey) or three (RGB) channels.

    Raises:
        ValueError: another number of channels, or no pixel.
    """
    height, width, channels = pixels.shape
    if channels not in (1, 3) or not pixels.size:
        raise ValueError(f"a picture needs 1 or 3 channels and a pixel, got shape {pixels.shape}")
    kind = _GREY if channels == 1 else _RGB
    header = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    # Every scan line begins with its filter type; 0 is "none", best for such small pictures.
    lines = np.zeros((height, 1 + width * channels), dtype=np.uint8)
    lines[:, 1:] = pixels.reshape(height, -1)
    body = zlib.compress(lines.tobytes(), 9)
    return _SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")


def data_uri(pixels: UInt8[np.ndarray, "height width channels"]) -> str:
    """The picture as a `data:image/png;base64,...` address."""
    return "data:image/png;base64," + base64.b64encode(encode(pixels)).decode("ascii")


def _chunk(kind: bytes, content: bytes) -> bytes:
    check = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)
