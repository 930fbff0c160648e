"""What went wrong inside an engine, in words; the next engine goes on.

An engine's bug must not lose what other engines have shown. It is noted in the result and said
aloud as an `EngineWarning`, which tests turn into an error.
"""

from __future__ import annotations

import warnings

from closegap.core.errors import ClosegapError, InputError, SoundnessError
from closegap.core.verdict import Reason

__all__ = ["EngineWarning", "describe_failure"]

#: How libraries say that there is no memory when they do not raise `MemoryError`.
_MEMORY_WORDS = ("out of memory", "can't allocate memory", "not enough memory", "bad_alloc")
#: Characters of a foreign message that fit a note.
_LONGEST = 200


class EngineWarning(RuntimeWarning):
    """An engine ended by an exception nobody expected: please report it."""


def describe_failure(name: str, error: Exception) -> tuple[Reason, str]:
    """Why an engine failed, and a note of one line.

    Args:
        name: of the engine.
        error: what it raised.

    Raises:
        InputError, SoundnessError: `error` itself; neither is the engine's failure.
    """
    if isinstance(error, InputError | SoundnessError):
        raise error
    if _is_memory(error):
        return Reason.MEMORY, f"{name} ran out of memory"
    if isinstance(error, ClosegapError):
        return Reason.ENGINE_FAILED, f"{name} failed: {error}"
    first = next(iter(str(error).strip().splitlines()), "")[:_LONGEST]
    text = f"{name} failed unexpectedly: {type(error).__name__}: {first}".rstrip(": ")
    warnings.warn(text, EngineWarning, stacklevel=2)
    return Reason.ENGINE_FAILED, text


def _is_memory(error: Exception) -> bool:
    words = str(error).lower()
    foreign = isinstance(error, RuntimeError) and any(part in words for part in _MEMORY_WORDS)
    return isinstance(error, MemoryError) or foreign
