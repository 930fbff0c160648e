"""The engines a strategy can call, by name: one adapter a file, one line here.

An engine's file is imported where the engine is first asked for: most queries need few of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

from closegap.strategy.engines.base import Engine

__all__ = ["ENGINES", "Engine"]


@dataclass(frozen=True)
class _Place:
    """Where an engine lies; called, it makes one with its defaults."""

    file: str
    name: str

    def __call__(self) -> Engine:
        make: Callable[[], Engine] = getattr(import_module(f"{__name__}.{self.file}"), self.name)
        return make()


ENGINES: dict[str, Callable[[], Engine]] = {
    "clean": _Place("clean", "CleanCheck"),
    "pgd": _Place("gradient", "QuickAttack"),
    "crown": _Place("crown", "Crown"),
    "binarized": _Place("binarized", "BinarizedEngine"),
    "input-split": _Place("input_split", "InputSplitEngine"),
    "alpha-crown": _Place("alpha_crown", "AlphaCrown"),
    "strong-pgd": _Place("gradient", "StrongAttack"),
    "region-walk": _Place("region", "RegionWalkEngine"),
    "lippa": _Place("region", "LippaEngine"),
    "bab-attack": _Place("bab_attack", "BabAttackEngine"),
    "near-attack": _Place("near_attack", "NearAttackEngine"),
    "attack": _Place("attack", "AttackEngine"),
    "refine": _Place("refine", "RefineEngine"),
    "layered": _Place("layered", "LayeredEngine"),
    "cutoff": _Place("cutoff", "CutoffEngine"),
    "bab": _Place("bab", "BranchEngine"),
    "cut-roots": _Place("cuts", "CutRootsEngine"),
    "cuts": _Place("cuts", "CutEngine"),
    "mip": _Place("mip", "MipEngine"),
}
