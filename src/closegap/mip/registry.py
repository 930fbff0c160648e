"""Which solvers there are, and which one to use."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Literal, TypeAlias

from closegap.core.errors import MissingDependencyError, OptionError
from closegap.mip.clarabel import ClarabelBackend
from closegap.mip.gurobi import GurobiBackend
from closegap.mip.highs import HighsBackend
from closegap.mip.killable import KillableBackend
from closegap.mip.model import MipBackend
from closegap.mip.scip import ScipInProcess

__all__ = ["BACKENDS", "Kind", "available", "backend", "choose"]

#: `"lp"`: linear programs with sessions and duals; `"mip"`: integer programs that end in time.
Kind: TypeAlias = Literal["lp", "mip"]

#: One line a solver.
BACKENDS: dict[str, Callable[[], MipBackend]] = {
    "highs": HighsBackend,
    "highs-process": lambda: KillableBackend(HighsBackend(), "highs-process"),
    "scip": lambda: KillableBackend(ScipInProcess()),
    "clarabel": ClarabelBackend,
    "gurobi": GurobiBackend,
}

#: In the order of preference; see the module texts of the backends for what was measured.
_ORDER: dict[Kind, tuple[str, ...]] = {
    "lp": ("highs",),
    "mip": ("scip", "highs-process", "highs"),
}


@cache
def backend(name: str) -> MipBackend:
    """The backend of that name; one object in each process, so that worker processes are reused.

    Raises:
        OptionError: no such backend.
    """
    if name not in BACKENDS:
        raise OptionError(f"solver '{name}' is unknown; use one of {', '.join(BACKENDS)}")
    return BACKENDS[name]()


def available() -> tuple[str, ...]:
    """Names of the backends whose solvers are installed; imports none of them."""
    return tuple(name for name in BACKENDS if backend(name).installed())


def choose(kind: Kind, preference: str | None = None) -> tuple[MipBackend, str]:
    """The best installed backend for a kind of program.

    Args:
        kind: `"lp"` or `"mip"`.
        preference: a name to use if it is installed.

    Returns:
        the backend, and a note for the result when it is not the one wanted, else `""`.

    Raises:
        OptionError: the preferred name is unknown, or cannot do this kind.
        MissingDependencyError: no solver for this kind is installed.
    """
    wanted = (preference,) if preference is not None else ()
    if preference is not None:
        _suits(preference, kind)
    order = (*wanted, *(name for name in _ORDER[kind] if name not in wanted))
    for name in order:
        if backend(name).installed():
            note = "" if name == order[0] else f"solver {order[0]} is not installed; {name} is used"
            return backend(name), note
    raise MissingDependencyError(f"no {kind} solver is installed; pip install highspy pyscipopt")


def _suits(name: str, kind: Kind) -> None:
    can = backend(name).capabilities
    if not (can.duals and can.warm_start if kind == "lp" else can.integer):
        raise OptionError(f"solver '{name}' cannot be used for {kind}; use {_ORDER[kind][0]}")
