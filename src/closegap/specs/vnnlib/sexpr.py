"""Parenthesised text as nested groups of symbols, each with its place."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TypeAlias

from closegap.core.errors import SpecError

__all__ = ["GAP", "MAX_DEPTH", "Expression", "Group", "SourceText", "Symbol", "read_group"]

#: Groups nested deeper than this are refused, so that no file can exhaust the stack.
MAX_DEPTH = 64

#: White space and comments. Possessive: the scanner never tries a gap in two ways.
GAP = r"(?:\s++|;[^\n]*+)*+"

#: A message shows so many characters of a word.
_SHOWN = 40

_TOKEN = re.compile(rf"{GAP}([()]|[^\s();]++|\Z)", re.ASCII)


@dataclass(frozen=True, slots=True)
class SourceText:
    """A text and where it came from; turns offsets into lines and columns."""

    text: str = field(repr=False)
    name: str

    def error(self, message: str, offset: int) -> SpecError:
        """The error `message` at `offset`; lines and columns count from 1."""
        line = self.text.count("\n", 0, offset) + 1
        column = offset - (self.text.rfind("\n", 0, offset) + 1) + 1
        return SpecError(message, source=self.name, line=line, column=column)


@dataclass(frozen=True, slots=True)
class Symbol:
    """A word: everything that is neither a parenthesis, nor white space, nor a comment."""

    text: str
    offset: int

    @property
    def shown(self) -> str:
        """The text for a message, cut where it would make that too long."""
        return self.text if len(self.text) <= _SHOWN else self.text[: _SHOWN - 3] + "..."


@dataclass(frozen=True, slots=True)
class Group:
    """What stands between an opening parenthesis (at `offset`) and the closing one."""

    parts: tuple[Symbol | Group, ...]
    offset: int


Expression: TypeAlias = Symbol | Group


def read_group(source: SourceText, offset: int) -> tuple[Group | None, int]:
    """The group that begins after `offset`, and the offset behind it.

    Returns:
        `None` instead of the group when only white space and comments are left.

    Raises:
        SpecError: something else than a group begins there, a parenthesis is not closed, or groups
            are nested deeper than `MAX_DEPTH`.
    """
    opened: list[tuple[int, list[Symbol | Group]]] = []
    while True:
        match = _TOKEN.match(source.text, offset)
        assert match is not None  # the pattern matches at the end of the text, too
        token, start, offset = match[1], match.start(1), match.end()
        if not opened and token != "(":
            if not token:
                return None, offset
            raise source.error(
                f"expected '(' to begin a command, found '{Symbol(token, start).shown}'", start
            )
        if not token:
            raise source.error("this '(' is never closed", opened[-1][0])
        if token == "(":
            if len(opened) == MAX_DEPTH:
                raise source.error(f"nested deeper than {MAX_DEPTH} groups", start)
            opened.append((start, []))
        elif token == ")":
            begin, parts = opened.pop()
            group = Group(tuple(parts), begin)
            if not opened:
                return group, offset
            opened[-1][1].append(group)
        else:
            opened[-1][1].append(Symbol(token, start))
