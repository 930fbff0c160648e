"""Types and shapes of the package, checked while the tests run.

`install` puts beartype on every function and dataclass of a package as it is imported; those whose
annotations name shapes get a jaxtyping context each call, in which a letter stands for one size.
Functions within functions are left out: they would be checked anew with each call of the outer one.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import sys
import typing
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType
from typing import Any, TypeVar

from beartype import BeartypeConf, beartype
from jaxtyping import AbstractArray, jaxtyped

T = TypeVar("T")

#: An int is welcome where a float is asked.
_beartyped = beartype(conf=BeartypeConf(is_pep484_tower=True))
#: Compiled modules are kept beside the ordinary ones; another number when `_Decorate` changes.
_SUFFIX = ".checked-1.pyc"


def checked(thing: T) -> T:
    """A function that checks its arguments and what it returns, or a dataclass that does."""
    if isinstance(thing, type):
        if dataclasses.is_dataclass(thing) and "__init__" in vars(thing):
            thing.__init__ = _function(vars(thing)["__init__"])
        return thing
    return _function(thing) if callable(thing) else thing  # type: ignore[return-value]


def _function(function: Callable[..., Any]) -> Callable[..., Any]:
    hints = {name: _value(hint, function) for name, hint in function.__annotations__.items()}
    function.__annotations__ = hints
    inner = _beartyped(function)
    if not any(_names_shapes(hint) for hint in hints.values()):
        return inner

    @functools.wraps(inner)
    def outer(*args: Any, **named: Any) -> Any:
        with jaxtyped("context"):
            return inner(*args, **named)

    return outer


def _value(hint: object, function: Callable[..., Any]) -> object:
    """What an annotation stands for; `Any` where that is not known yet, or never at run time."""
    if not isinstance(hint, str):
        return hint
    try:
        return eval(hint, function.__globals__)
    except (NameError, AttributeError):
        return Any


def _names_shapes(hint: object) -> bool:
    if isinstance(hint, type) and issubclass(hint, AbstractArray):
        return True
    return any(_names_shapes(part) for part in typing.get_args(hint))


class _Decorate(ast.NodeTransformer):
    """Puts `checked` closest to each function and outermost on each class."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        node.decorator_list.append(_decorator(node))
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        node.decorator_list.insert(0, _decorator(node))
        self.generic_visit(node)
        return node


def _decorator(node: ast.stmt) -> ast.expr:
    call = ast.parse(f"__import__('{__name__}').checked", mode="eval").body
    for part in ast.walk(call):
        ast.copy_location(part, node)
    return call


class _Loader(SourceFileLoader):
    def source_to_code(self, data: Any, path: Any, **named: Any) -> CodeType:  # type: ignore[override]
        tree = _Decorate().visit(ast.parse(data, path))
        code: CodeType = compile(tree, path, "exec", dont_inherit=True)
        return code

    def get_data(self, path: str) -> bytes:
        return super().get_data(_kept(path))

    def set_data(self, path: str, data: Any, **named: Any) -> None:
        super().set_data(_kept(path), data, **named)


def _kept(path: str) -> str:
    return path.removesuffix(".pyc") + _SUFFIX if path.endswith(".pyc") else path


class _Finder(MetaPathFinder):
    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != self.package and not name.startswith(self.package + "."):
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


def install(package: str) -> None:
    """Check a package that was not imported yet.

    Raises:
        RuntimeError: it was.
    """
    if package in sys.modules:
        raise RuntimeError(f"{package} was imported before its types could be checked")
    sys.meta_path.insert(0, _Finder(package))
