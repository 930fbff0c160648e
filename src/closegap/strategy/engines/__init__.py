"""The engines a strategy can call, by name: one adapter a file, one line here."""

from __future__ import annotations

from collections.abc import Callable

from closegap.strategy.engines.bab import BranchEngine, InputSplitEngine
from closegap.strategy.engines.base import Engine
from closegap.strategy.engines.clean import CleanCheck
from closegap.strategy.engines.linear import AlphaCrown, Crown

__all__ = ["ENGINES", "Engine"]

ENGINES: dict[str, Callable[[], Engine]] = {
    "clean": CleanCheck,
    "crown": Crown,
    "alpha-crown": AlphaCrown,
    "input-split": InputSplitEngine,
    "bab": BranchEngine,
}
