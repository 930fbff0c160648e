"""Verdicts and the reasons an answer stayed open."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Reason", "Verdict"]


class Verdict(StrEnum):
    """What is known of a query. Always derived from a bracket, never set by hand."""

    VERIFIED = "verified"
    FALSIFIED = "falsified"
    UNKNOWN = "unknown"


class Reason(StrEnum):
    """Why a query stayed unknown."""

    TIME = "time"
    MEMORY = "memory"
    NODES = "nodes"
    NUMERICAL = "numerical trouble"
    INCOMPLETE = "engines exhausted"
    INTERRUPTED = "interrupted"
    ENGINE_FAILED = "engine failed"
