"""Imports: of packages' names when they are first used, and of much at once."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any

__all__ = ["import_all", "lazily"]


def lazily(
    package: str, homes: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The `__getattr__` and the `__dir__` of a package.

    Args:
        package: its `__name__`.
        homes: for every exported name the module within the package that has it. No module may be
            called as a name is: an imported module would hide it.
    """

    def get(name: str) -> Any:
        if name in homes:
            return getattr(import_module(f"{package}.{homes[name]}"), name)
        raise AttributeError(f"module '{package}' has no attribute '{name}'")

    return get, lambda: sorted(homes)


def import_all(modules: Iterable[str]) -> None:
    """Import modules, without looking for garbage meanwhile.

    What is imported stays, and a collection walks over all of it: in vain, time and again, which is
    a tenth of the time that importing torch takes.

    Args:
        modules: their full names.
    """
    collected = gc.isenabled()
    gc.disable()
    try:
        for name in modules:
            import_module(name)
    finally:
        if collected:
            gc.enable()
