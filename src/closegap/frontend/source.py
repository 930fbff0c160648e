"""From a path to the bytes of an ONNX file: gzip or not, with errors a user can act on."""

from __future__ import annotations

import gzip
import io
import zlib
from pathlib import Path

from closegap.core.errors import ModelError

__all__ = ["MAX_MODEL_BYTES", "inflate", "read_model_bytes"]

#: Protobuf's own limit on a message; a larger ONNX file cannot be parsed anyway.
MAX_MODEL_BYTES = 2 * 1024**3

_GZIP_MAGIC = b"\x1f\x8b"


def read_model_bytes(path: Path) -> bytes:
    """The uncompressed bytes of an ONNX file, which may be gzipped whatever its suffix.

    Raises:
        ModelError: the file is missing, unreadable, empty, larger than protobuf allows, or its
            gzip stream is truncated or damaged.
    """
    try:
        if path.stat().st_size > MAX_MODEL_BYTES:
            raise ModelError(_too_large(str(path)))
        data = path.read_bytes()
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file; check the path of the model") from None
    except IsADirectoryError:
        raise ModelError(f"{path}: is a folder; name the ONNX file itself") from None
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror}); check it") from None
    return inflate(data, str(path))


def inflate(data: bytes, source: str) -> bytes:
    """The bytes themselves, or what they hold when they are a gzip stream.

    Args:
        data: the file as it lies on disk; recognised as gzip by its first two bytes.
        source: where it came from, for messages.

    Raises:
        ModelError: the stream is truncated, damaged, empty or inflates beyond 2 GiB.
    """
    if not data:
        raise ModelError(f"{source}: the file is empty; an ONNX file is needed")
    if not data.startswith(_GZIP_MAGIC):
        return data
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as stream:
            inflated = stream.read(MAX_MODEL_BYTES + 1)
    except EOFError:
        raise ModelError(f"{source}: truncated gzip file; copy or download it again") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise ModelError(f"{source}: damaged gzip file ({error}); download it again") from None
    if len(inflated) > MAX_MODEL_BYTES:
        raise ModelError(_too_large(source))
    return inflated


def _too_large(source: str) -> str:
    return f"{source}: larger than 2 GiB, the limit of an ONNX file; is it a model?"
