"""VNN-COMP instance lists: a network, a property and a timeout a line."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path

from closegap.core.errors import SpecError
from closegap.core.files import read_file

__all__ = ["Instance", "load_instances"]

_COLUMNS = ("onnx", "vnnlib", "timeout")


@dataclass(frozen=True)
class Instance:
    """One row.

    Attributes:
        onnx: the network's file.
        vnnlib: the property's file.
        timeout: in seconds.
        expected: the published verdict (`sat`, `unsat`, ...), where the list has a column of them.
    """

    onnx: Path
    vnnlib: Path
    timeout: float
    expected: str | None = None


def load_instances(path: str | Path) -> tuple[Instance, ...]:
    """Read a list of `onnx,vnnlib,timeout` rows.

    A first row of column names is optional; with it, columns may stand in any order and `verdict`
    is kept as `expected`. Paths are relative to the list's folder. A file that is not there, but
    is with `.gz` added (or taken away), is that one.

    Raises:
        SpecError: the list cannot be read or is empty, a row has too few columns, or a timeout is
            not a positive number; names the line.
    """
    source = Path(path)
    try:
        text = read_file(source, SpecError).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise SpecError("not a text file", source=str(source)) from None
    reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True)
    columns: tuple[str, ...] = _COLUMNS
    found: list[Instance] = []
    for cells in reader:
        row = [cell.strip() for cell in cells]
        if not any(row):
            continue
        if not found and set(_COLUMNS) <= set(row):
            columns = tuple(row)
            continue
        found.append(_instance(source, reader.line_num, dict(zip(columns, row, strict=False))))
    if not found:
        raise SpecError("holds no instance; write onnx,vnnlib,timeout rows", source=str(source))
    return tuple(found)


def _instance(source: Path, line: int, row: dict[str, str]) -> Instance:
    if not all(row.get(column) for column in _COLUMNS):
        raise SpecError(
            "a row needs onnx,vnnlib,timeout; one of them is missing", source=str(source), line=line
        )
    try:
        timeout = float(row["timeout"])
    except ValueError:
        timeout = math.nan
    if not (math.isfinite(timeout) and timeout > 0):
        raise SpecError(
            f"timeout '{row['timeout']}' is not a positive number of seconds",
            source=str(source),
            line=line,
        )
    onnx, vnnlib = (_present(source.parent / row[column]) for column in _COLUMNS[:2])
    return Instance(onnx, vnnlib, timeout, row.get("verdict") or None)


def _present(path: Path) -> Path:
    zipped = path.suffix == ".gz"
    other = path.with_suffix("") if zipped else path.with_name(path.name + ".gz")
    return other if other.is_file() and not path.exists() else path
