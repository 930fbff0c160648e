"""A file's commands in order: declarations and assertions."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from closegap.specs.vnnlib.assertions import read_formula
from closegap.specs.vnnlib.bounds import BoundSet
from closegap.specs.vnnlib.formula import And, Bound, Formula
from closegap.specs.vnnlib.linear import NUMBER
from closegap.specs.vnnlib.sexpr import GAP, Expression, Group, SourceText, Symbol, read_group

__all__ = ["Script", "read_script"]

_INDEX = r"(?:0|[1-9]\d{0,8})"
_VARIABLE = re.compile(rf"[XY]_{_INDEX}", re.ASCII)

#: The two commands that make up nearly all of a file, in one match each. Its groups: the declared
#: name, or relation, input and bound.
_COMMON = re.compile(
    rf"{GAP}\(\s*+(?:"
    rf"declare-const\s++([XY]_{_INDEX})\s++Real"
    rf"|assert\s*+\(\s*+([<>])=\s++(X_{_INDEX})\s++({NUMBER})\s*+\)"
    rf")\s*+\)",
    re.ASCII,
)


@dataclass(eq=False)
class Script:
    """What the commands read so far amount to: a builder, filled by `read_script` only.

    Attributes:
        source: the text.
        declared: place of each variable's declaration, by name, in order.
        bounds: those that hold in every case.
        formulas: the other assertions; all of them hold.
    """

    source: SourceText
    declared: dict[str, int] = field(default_factory=dict)
    bounds: BoundSet = field(default_factory=BoundSet)
    formulas: list[Formula] = field(default_factory=list)

    def declare(self, name: str, offset: int) -> None:
        """Add a variable.

        Raises:
            SpecError: it was declared before.
        """
        if name in self.declared:
            raise self.source.error(f"'{name}' is declared twice", offset)
        self.declared[name] = offset

    def add(self, formula: Formula) -> None:
        """Add an assertion.

        Raises:
            SpecError: it is a bound that leaves an input no value.
        """
        if isinstance(formula, Bound):
            self.bounds.tighten(self.source, formula)
        elif isinstance(formula, And):
            for part in formula.parts:
                self.add(part)
        else:
            self.formulas.append(formula)


def read_script(source: SourceText) -> Script:
    """Read all commands.

    Raises:
        SpecError: with line and column.
    """
    script = Script(source)
    offset = 0
    while True:
        offset = _read_common(script, offset)
        group, offset = read_group(source, offset)
        if group is None:
            return script
        _command(script, group)


def _read_common(script: Script, offset: int) -> int:
    """Read declarations and simple bounds up to the first command that is anything else, or wrong.

    Does by hand what `_command` does, for speed, and leaves whatever is wrong for it to report.

    Returns:
        the offset of that command.
    """
    text, declared = script.source.text, script.declared
    lower, upper = script.bounds.lower, script.bounds.upper
    while match := _COMMON.match(text, offset):
        name, relation, variable, word = match.groups()
        if name is not None:
            if name in declared:
                break
            declared[name] = match.start(1)
        else:
            value = float(word) + 0.0  # a negative zero becomes zero
            if variable not in declared or math.isinf(value):
                break
            index = int(variable[2:])
            low, high = lower.get(index, -math.inf), upper.get(index, math.inf)
            if relation == "<" and low <= value:
                upper[index] = min(high, value)
            elif relation == ">" and value <= high:
                lower[index] = max(low, value)
            else:
                break
        offset = match.end()
    return offset


def _command(script: Script, group: Group) -> None:
    head = group.parts[0] if group.parts else None
    word = head.text if isinstance(head, Symbol) else ""
    if word in _SKIPPED:
        return
    if word not in _COMMANDS:
        found = f"'{head.shown}'" if isinstance(head, Symbol) else "'('" if head else "nothing"
        raise script.source.error(
            f"expected a command ({', '.join(_COMMANDS)}), found {found}", group.offset
        )
    _COMMANDS[word](script, group)


def _assert(script: Script, group: Group) -> None:
    if len(group.parts) != 2:
        raise script.source.error(
            f"'assert' takes one formula, got {len(group.parts) - 1}", group.offset
        )
    script.add(read_formula(script.source, script.declared, group.parts[1]))


def _declare_const(script: Script, group: Group) -> None:
    _declare(script, group, group.parts[1:])


def _declare_fun(script: Script, group: Group) -> None:
    """`(declare-fun X_0 () Real)`: a function without arguments."""
    arguments = group.parts[2] if len(group.parts) == 4 else None
    if not (isinstance(arguments, Group) and not arguments.parts):
        raise script.source.error("a function must have no arguments: ()", group.offset)
    _declare(script, group, (group.parts[1], group.parts[3]))


def _declare(script: Script, group: Group, parts: tuple[Expression, ...]) -> None:
    symbols = [part for part in parts if isinstance(part, Symbol)]
    if len(parts) != 2 or len(symbols) != 2:
        raise script.source.error("a declaration reads (declare-const X_0 Real)", group.offset)
    name, kind = symbols
    if not _VARIABLE.fullmatch(name.text):
        raise script.source.error(
            f"'{name.shown}' is not a variable: inputs are X_0, X_1, ..., outputs Y_0, Y_1, ...",
            name.offset,
        )
    if kind.text != "Real":
        raise script.source.error(f"'{kind.shown}' is not supported; use Real", kind.offset)
    script.declare(name.text, name.offset)


_COMMANDS: dict[str, Callable[[Script, Group], None]] = {
    "declare-const": _declare_const,
    "declare-fun": _declare_fun,
    "assert": _assert,
}
#: Commands of SMT-LIB that say nothing about the property.
_SKIPPED = frozenset({"set-logic", "set-info", "set-option", "check-sat", "get-model", "exit"})
