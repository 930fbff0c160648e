"""Reading files that may be gzipped, with errors a user can act on."""

from __future__ import annotations

import gzip
import io
import zlib
from pathlib import Path

from closegap.core.errors import InputError

__all__ = ["MAX_FILE_BYTES", "read_file"]

#: Nothing we read is larger; a gzip stream that inflates beyond it is refused.
MAX_FILE_BYTES = 2 * 1024**3

_GZIP_MAGIC = b"\x1f\x8b"


def read_file(path: Path, error: type[InputError]) -> bytes:
    """The content of a file, inflated when it is a gzip stream, whatever its suffix.

    Args:
        path: of the file.
        error: what to raise; built from one line of text.

    Raises:
        InputError: of the class `error`: the file is missing, unreadable, larger than 2 GiB, or its
            gzip stream is truncated or damaged.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise error(f"{path}: no such file; check the path") from None
    except IsADirectoryError:
        raise error(f"{path}: is a folder; name the file itself") from None
    except OSError as reason:
        raise error(f"{path}: cannot be read ({reason.strerror}); check it") from None
    if data.startswith(_GZIP_MAGIC):
        data = _inflate(data, path, error)
    if len(data) > MAX_FILE_BYTES:
        raise error(f"{path}: larger than 2 GiB; is it the right file?")
    return data


def _inflate(data: bytes, path: Path, error: type[InputError]) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as stream:
            return stream.read(MAX_FILE_BYTES + 1)
    except EOFError:
        raise error(f"{path}: truncated gzip file; copy or download it again") from None
    except (gzip.BadGzipFile, zlib.error) as reason:
        raise error(f"{path}: damaged gzip file ({reason}); download it again") from None
