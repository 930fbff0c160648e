"""The engines a strategy can call, by name: one adapter a file, one line here."""

from __future__ import annotations

from collections.abc import Callable

from closegap.strategy.engines.attack import AttackEngine
from closegap.strategy.engines.bab import BranchEngine, InputSplitEngine
from closegap.strategy.engines.bab_attack import BabAttackEngine
from closegap.strategy.engines.base import Engine
from closegap.strategy.engines.binarized import BinarizedEngine
from closegap.strategy.engines.clean import CleanCheck
from closegap.strategy.engines.cutoff import CutoffEngine
from closegap.strategy.engines.cuts import CutEngine, CutRootsEngine
from closegap.strategy.engines.gradient import QuickAttack, StrongAttack
from closegap.strategy.engines.layered import LayeredEngine
from closegap.strategy.engines.linear import AlphaCrown, Crown
from closegap.strategy.engines.mip import MipEngine
from closegap.strategy.engines.near_attack import NearAttackEngine
from closegap.strategy.engines.refine import RefineEngine
from closegap.strategy.engines.region import LippaEngine, RegionWalkEngine

__all__ = ["ENGINES", "Engine"]

ENGINES: dict[str, Callable[[], Engine]] = {
    "clean": CleanCheck,
    "pgd": QuickAttack,
    "crown": Crown,
    "binarized": BinarizedEngine,
    "input-split": InputSplitEngine,
    "alpha-crown": AlphaCrown,
    "strong-pgd": StrongAttack,
    "region-walk": RegionWalkEngine,
    "lippa": LippaEngine,
    "bab-attack": BabAttackEngine,
    "near-attack": NearAttackEngine,
    "attack": AttackEngine,
    "refine": RefineEngine,
    "layered": LayeredEngine,
    "cutoff": CutoffEngine,
    "bab": BranchEngine,
    "cut-roots": CutRootsEngine,
    "cuts": CutEngine,
    "mip": MipEngine,
}
