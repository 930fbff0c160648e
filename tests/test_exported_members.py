"""The public face: every exported name is there, is meant, and says what it is."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest

import closegap

_PACKAGES = sorted(
    info.name for info in pkgutil.walk_packages(closegap.__path__, "closegap.") if info.ispkg
)


def _says_something(member: object) -> bool:
    """Modules, classes and functions have docstrings; constants and type aliases cannot."""
    if not (inspect.ismodule(member) or inspect.isclass(member) or inspect.isfunction(member)):
        return True
    return bool((member.__doc__ or "").strip())


def test_the_python_face() -> None:
    assert closegap.__all__ == ["attacks", "from_torch", "load", "robustness", "solve"]
    assert dir(closegap) == sorted(closegap.__all__)
    for name in closegap.__all__:
        assert _says_something(getattr(closegap, name)), name
    with pytest.raises(AttributeError, match="no attribute 'magic'"):
        _ = closegap.magic


@pytest.mark.parametrize("name", _PACKAGES)
def test_packages_export_what_they_say(name: str) -> None:
    package = importlib.import_module(name)
    if Path(str(package.__file__)).stat().st_size == 0:
        pytest.skip("nothing lives here yet")
    assert (package.__doc__ or "").strip()
    exported = list(getattr(package, "__all__", []))
    assert len(exported) == len(set(exported))
    assert not [n for n in exported if n.startswith("_")]
    assert not [n for n in exported if not _says_something(getattr(package, n))]
