"""The budgets of the house: short files, short functions, few parameters, flat code, docstrings."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 50
MAX_PARAMETERS = 7
MAX_NESTING = 3
#: A literal below this is a tolerance; a step size or a learning rate is not.
SMALL = 1e-3

#: What may exceed a budget, each with its reason: `path:name` -> why.
ALLOWED: dict[str, str] = {
    "src/closegap/attacks/gradient/sampling.py:FINEST_MOVE": "a share of a region's width",
}

Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef
_FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)
_BLOCK = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.Match)


@dataclass(frozen=True)
class Source:
    """One file, parsed."""

    path: str
    text: str
    tree: ast.Module

    def functions(self) -> Iterator[Function]:
        """Every function and method, nested ones too."""
        return (n for n in ast.walk(self.tree) if isinstance(n, _FUNCTION))


Rule: TypeAlias = Callable[[Source], Iterator[str]]


def sources(*folders: str) -> list[Source]:
    """The parsed Python files of the folders, in order."""
    files = sorted(p for folder in folders for p in (ROOT / folder).rglob("*.py"))
    texts = [(str(p.relative_to(ROOT)), p.read_text(encoding="utf-8")) for p in files]
    return [Source(path, text, ast.parse(text)) for path, text in texts]


EVERYTHING = sources("src", "tests", "examples", "benchmarks")
PACKAGE = [s for s in EVERYTHING if s.path.startswith("src")]


def long_files(source: Source) -> Iterator[str]:
    """Files with more lines than a reader keeps in mind."""
    lines = source.text.count("\n")
    if lines > MAX_FILE_LINES:
        yield f"{source.path}: {lines} lines"


def long_functions(source: Source) -> Iterator[str]:
    """Functions longer than a screen, docstring included."""
    for function in source.functions():
        lines = (function.end_lineno or 0) - function.lineno + 1
        if lines > MAX_FUNCTION_LINES:
            yield f"{source.path}:{function.name}: {lines} lines"


def many_parameters(source: Source) -> Iterator[str]:
    """Functions that ask for more than a caller remembers; `self` and `cls` do not count."""
    for function in source.functions():
        count = sum(a.arg not in ("self", "cls") for a in _arguments(function))
        if count > MAX_PARAMETERS:
            yield f"{source.path}:{function.name}: {count} parameters"


def deep_nesting(source: Source) -> Iterator[str]:
    """Blocks inside blocks inside blocks."""
    for function in source.functions():
        depth = _depth(function)
        if depth > MAX_NESTING:
            yield f"{source.path}:{function.name}: blocks {depth} deep"


def bare_arguments(source: Source) -> Iterator[str]:
    """Arguments and results without a type."""
    for function in source.functions():
        for argument in _arguments(function):
            if argument.annotation is None and argument.arg not in ("self", "cls"):
                yield f"{source.path}:{function.name}: argument '{argument.arg}'"
        if function.returns is None and function.name not in ("__init__", "__post_init__"):
            yield f"{source.path}:{function.name}: result"


def missing_docstrings(source: Source) -> Iterator[str]:
    """Public modules, classes, functions and methods that say nothing of themselves."""
    if source.text.strip() and ast.get_docstring(source.tree) is None:
        yield f"{source.path}: module"
    for name, node in _public(source.tree, ""):
        if ast.get_docstring(node) is None:
            yield f"{source.path}:{name}"


def unlisted_names(source: Source) -> Iterator[str]:
    """Public names of a module that its `__all__` leaves out, and names in it that do not exist."""
    listed = _listed(source.tree)
    defined = {n.name for n in source.tree.body if isinstance(n, (*_FUNCTION, ast.ClassDef))}
    public = {n for n in defined if not n.startswith("_")}
    for name in sorted(public - (listed or set())):
        yield f"{source.path}:{name}: not in __all__"
    bound = {n.id for n in ast.walk(source.tree) if isinstance(n, ast.Name)} | defined
    bound |= {a.asname or a.name for n in ast.walk(source.tree) if isinstance(n, ast.ImportFrom)
              for a in n.names}  # fmt: skip
    lazy = any(n.name == "__getattr__" for n in source.tree.body if isinstance(n, _FUNCTION))
    for name in [] if lazy else sorted((listed or set()) - bound):
        yield f"{source.path}:{name}: in __all__, not in the module"


def small_literals(source: Source) -> Iterator[str]:
    """Tolerances outside the one file that may hold them; shipped test suites have their own."""
    if source.path.endswith("core/numerics.py") or "/testing/" in source.path:
        return
    for statement in source.tree.body:
        targets = statement.targets if isinstance(statement, ast.Assign) else []
        name = next((t.id for t in targets if isinstance(t, ast.Name)), "")
        for node in ast.walk(statement):
            value = node.value if isinstance(node, ast.Constant) else None
            if isinstance(value, float) and 0 < abs(value) < SMALL:
                yield f"{source.path}:{name or getattr(node, 'lineno', '')}: {value}"


@pytest.mark.parametrize("rule", [long_files, long_functions, many_parameters, deep_nesting])
def test_size(rule: Rule) -> None:
    _check(rule, EVERYTHING)


def test_types() -> None:
    _check(bare_arguments, [s for s in EVERYTHING if not s.path.startswith("tests")])


@pytest.mark.parametrize("rule", [missing_docstrings, unlisted_names, small_literals])
def test_package(rule: Rule) -> None:
    _check(rule, PACKAGE)


BAD = """
def everything(a, b, c, d, e, f, g, h):
    for x in a:
        with b:
            if c:
                while d:
                    return 1e-6
"""


@pytest.mark.parametrize(
    "rule",
    [many_parameters, deep_nesting, bare_arguments, missing_docstrings, unlisted_names,
     small_literals],
)  # fmt: skip
def test_rules_bite(rule: Rule) -> None:
    assert list(rule(Source("src/bad.py", BAD, ast.parse(BAD))))


def test_length_rules_bite() -> None:
    text = "def long() -> None:\n" + "    print()\n" * MAX_FILE_LINES
    source = Source("src/bad.py", text, ast.parse(text))
    assert list(long_files(source)) and list(long_functions(source))


def test_elif_is_not_nesting() -> None:
    text = "def f(a):\n" + "    if a:\n        pass\n" + "    elif a:\n        pass\n" * 5
    assert not list(deep_nesting(Source("src/good.py", text, ast.parse(text))))


def test_allowances_are_needed() -> None:
    rules = (long_files, long_functions, many_parameters, deep_nesting, small_literals)
    found = " ".join(line for rule in rules for s in EVERYTHING for line in rule(s))
    assert all(key in found for key in ALLOWED)


def _check(rule: Rule, files: list[Source]) -> None:
    lines = [line for source in files for line in rule(source)]
    kept = [line for line in lines if not any(line.startswith(key) for key in ALLOWED)]
    if kept:
        pytest.fail("\n".join([str(rule.__doc__), *kept]), pytrace=False)


def _arguments(function: Function) -> list[ast.arg]:
    a = function.args
    return [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))]


def _depth(node: ast.AST) -> int:
    """Depth of the deepest block under `node`; functions inside count for themselves."""
    deepest = 0
    for field, value in ast.iter_fields(node):
        is_elif = field == "orelse" and isinstance(node, ast.If) and len(value) == 1
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or isinstance(child, (*_FUNCTION, ast.ClassDef)):
                continue
            flat = is_elif and isinstance(child, ast.If)
            deepest = max(deepest, _depth(child) + (isinstance(child, _BLOCK) and not flat))
    return deepest


def _public(
    node: ast.Module | ast.ClassDef, prefix: str
) -> Iterator[tuple[str, Function | ast.ClassDef]]:
    for child in node.body:
        if isinstance(child, (*_FUNCTION, ast.ClassDef)) and not child.name.startswith("_"):
            yield prefix + child.name, child
            if isinstance(child, ast.ClassDef):
                yield from _public(child, f"{prefix}{child.name}.")


def _listed(tree: ast.Module) -> set[str] | None:
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if any(isinstance(t, ast.Name) and t.id == "__all__" for t in targets):
            return {str(c.value) for c in ast.walk(node) if isinstance(c, ast.Constant)}
    return None
