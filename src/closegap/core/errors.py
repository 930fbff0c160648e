"""The one error tree.

    ClosegapError
    ├── InputError                 the user gave something that cannot be used; exit code 2
    │   ├── ModelError             the network file
    │   │   └── UnsupportedOpError an operator or attribute outside what is supported
    │   ├── SpecError              the property or region, with its place in the file
    │   ├── DataError              images, labels, index lists
    │   ├── StoreError             the run store
    │   └── OptionError            an option's value, or options that exclude each other
    ├── MissingDependencyError     an optional package is not installed; exit code 2
    ├── EncodingError              a network or region that cannot be written as an LP or MIP
    ├── SolverError                an LP/MIP/QP solver crashed or answered nonsense
    └── SoundnessError             an internal check failed; the answer it guarded is withdrawn

Foreign errors (ONNX, SQLite, solvers, the operating system) are translated at the border into
one of these. Timeouts, unknowns and infeasible problems are values, not errors.
"""

from __future__ import annotations

__all__ = [
    "ClosegapError",
    "DataError",
    "EncodingError",
    "InputError",
    "MissingDependencyError",
    "ModelError",
    "OptionError",
    "SolverError",
    "SoundnessError",
    "SpecError",
    "StoreError",
    "UnsupportedOpError",
]


class ClosegapError(Exception):
    """Base of every error closegap raises on purpose. Its text is one line."""


class InputError(ClosegapError):
    """Something the user gave cannot be used. The text says what, where and what to do."""


class ModelError(InputError):
    """The network file is missing, damaged, inconsistent or not supported."""


class UnsupportedOpError(ModelError):
    """An operator the front end does not support: names the node, the op, why, what would help."""

    def __init__(self, op: str, node: str, reason: str, advice: str) -> None:
        self.op = op
        self.node = node
        self.reason = reason
        self.advice = advice
        super().__init__(f"unsupported op {op} at node '{node}': {reason}; {advice}")


class SpecError(InputError):
    """The property or the region is malformed; carries the place in the file when there is one."""

    def __init__(
        self, message: str, *, source: str = "", line: int | None = None, column: int | None = None
    ) -> None:
        self.source = source
        self.line = line
        self.column = column
        place = source + (f":{line}" if line is not None else "")
        place += f":{column}" if column is not None else ""
        super().__init__(f"{place}: {message}" if place else message)


class DataError(InputError):
    """Images, labels or an index list cannot be used with this network."""


class StoreError(InputError):
    """The run store cannot be opened, belongs to another run, or cannot be written."""


class OptionError(InputError):
    """An option has a value outside its range, or excludes another one."""


class MissingDependencyError(ClosegapError):
    """An optional package is needed and not installed; the text names the extra to install."""


class EncodingError(ClosegapError):
    """A query is too large, or has bounds too loose, to be written as an LP or MIP."""


class SolverError(ClosegapError):
    """A solver crashed, was killed, or returned something that contradicts itself."""


class SoundnessError(ClosegapError):
    """A check that guards a verdict failed: the verdict is withdrawn and reported as unknown."""
