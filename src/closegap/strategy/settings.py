"""Settings of engines by name: `bab.batch=128` changes one field of one engine's options.

An engine is a frozen dataclass whose fields are numbers, words, or records of such fields. A key is
the engine's name and the path of the field; the record `options`, which most engines have, is left
out. A record with a field `name` may be set as a whole: `bab.branching=fsb`.
"""

from __future__ import annotations

import math
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import Field, fields, is_dataclass, replace
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from closegap.core.errors import OptionError
from closegap.strategy.engines import ENGINES, Engine

__all__ = ["build_engine", "check_settings", "known_keys", "parse_settings"]

#: Left out of keys.
_SILENT = "options"
#: Names the choice of a record.
_NAME = "name"


def parse_settings(texts: Iterable[str]) -> dict[str, str]:
    """`key=value` texts as a dictionary, checked.

    Raises:
        OptionError: a text has no `=`, a key is unknown or given twice, or a value does not fit.
    """
    settings: dict[str, str] = {}
    for text in texts:
        key, equals, value = (part.strip() for part in text.partition("="))
        if not equals:
            raise OptionError(f"'{text}' is no setting; write it as {next(iter(known_keys()))}=...")
        if key in settings:
            raise OptionError(f"{key} is set twice")
        settings[key] = value
    check_settings(settings)
    return settings


def check_settings(settings: Mapping[str, str]) -> None:
    """Build every engine that is named.

    Raises:
        OptionError: a key is unknown, or a value does not fit.
    """
    known = known_keys() if settings else ()
    for key in settings:
        if key not in known:
            engine = key.partition(".")[0] + "."
            near = [k for k in known if k.startswith(engine)] or known
            raise OptionError(f"unknown setting '{key}'; known: {', '.join(near)}")
    for name in {key.partition(".")[0] for key in settings}:
        build_engine(name, settings)


def build_engine(name: str, settings: Mapping[str, str]) -> Engine:
    """The engine with its defaults, changed where settings name it.

    Raises:
        OptionError: a value does not fit.
    """
    engine: Any = ENGINES[name]()
    for key, value in settings.items():
        head, _, path = key.partition(".")
        if head == name:
            engine = _changed(engine, path.split("."), value, key)
    return cast(Engine, engine)


def known_keys() -> tuple[str, ...]:
    """Every key that can be set, by engine."""
    return tuple(f"{name}.{path}" for name, make in ENGINES.items() for path in _paths(make()))


def _paths(record: Any) -> Iterable[str]:
    if not is_dataclass(record):
        return
    for field in fields(record):
        value = getattr(record, field.name)
        if not is_dataclass(value):
            if _reader(record, field) is not None:
                yield field.name
            continue
        prefix = "" if field.name == _SILENT else f"{field.name}."
        inner = list(_paths(value))
        if _NAME in inner and prefix:
            yield field.name
            inner.remove(_NAME)
        yield from (prefix + path for path in inner)


def _changed(record: Any, path: list[str], value: str, key: str) -> Any:
    """The record with one field replaced, however deep."""
    known = {field.name: field for field in fields(record)}
    if path[0] not in known:
        inner = _changed(getattr(record, _SILENT), path, value, key)
        return replace(record, **{_SILENT: inner})
    held = getattr(record, path[0])
    if is_dataclass(held):
        inner = _changed(held, path[1:] or [_NAME], value, key)
        return replace(record, **{path[0]: inner})
    read = _reader(record, known[path[0]])
    assert read is not None
    try:
        return replace(record, **{path[0]: read(value)})
    except OptionError as error:
        raise OptionError(f"{key}: {error}") from None
    except ValueError:
        raise OptionError(f"{key}: '{value}' does not fit; {_wanted(record, path[0])}") from None


def _reader(record: Any, field: Field[Any]) -> Callable[[str], Any] | None:
    """How a field's text becomes its value; `None` for fields that have no text."""
    kind = get_type_hints(type(record))[field.name]
    if get_origin(kind) in (Union, types.UnionType):
        parts = [part for part in get_args(kind) if part is not types.NoneType]
        read = _READERS.get(parts[0]) if len(parts) == 1 else None
        return None if read is None else lambda text: None if text == "none" else read(text)
    if get_origin(kind) is Literal:
        return _one_of(get_args(kind))
    return _READERS.get(kind)


def _wanted(record: Any, name: str) -> str:
    kind = get_type_hints(type(record))[name]
    if get_origin(kind) is Literal:
        return f"one of {', '.join(get_args(kind))}"
    for plain, words in _WORDS.items():
        if kind is plain or plain in get_args(kind):
            return words if kind is plain else f"{words}, or none"
    return f"{kind}"


def _one_of(choices: tuple[str, ...]) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in choices:
            raise ValueError(text)
        return text

    return read


def _switch(text: str) -> bool:
    known = {"yes": True, "true": True, "no": False, "false": False}
    if text.lower() not in known:
        raise ValueError(text)
    return known[text.lower()]


def _amount(text: str) -> float:
    number = float(text)
    if not math.isfinite(number) or number < 0:
        raise ValueError(text)
    return number


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise ValueError(text)
    return number


_READERS: dict[type, Callable[[str], Any]] = {
    bool: _switch,
    int: _count,
    float: _amount,
    str: str,
}
_WORDS: dict[type, str] = {
    bool: "give yes or no",
    int: "give a whole number, not negative",
    float: "give a number, finite and not negative",
    str: "give a word",
}
