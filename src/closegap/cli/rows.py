"""Rows on stdout, for programs."""

from __future__ import annotations

import json
import sys

__all__ = ["print_row"]


def print_row(row: dict[str, object]) -> None:
    """One strict JSON object on a line of stdout, at once."""
    sys.stdout.write(json.dumps(row, allow_nan=False) + "\n")
    sys.stdout.flush()
