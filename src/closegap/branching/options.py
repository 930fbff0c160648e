"""Which unit to split, as an option: names, and what belongs to each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from closegap.branching.acs import acs
from closegap.branching.babsr import babsr
from closegap.branching.evidence import Scorer
from closegap.branching.gains import GAINS
from closegap.branching.intercept import intercept
from closegap.core.errors import OptionError

__all__ = ["AT_REST", "FILTERS", "SCORERS", "BranchingOptions", "Cut"]

#: Estimates that decide on their own.
SCORERS: dict[str, Scorer] = {"babsr": babsr, "intercept": intercept, "acs": acs}
#: Those that look at `Evidence.resting`, which costs a backward pass and its derivative.
AT_REST: frozenset[str] = frozenset({"acs"})
#: Shortlists by estimates, decided by bounds of both children: of each layer, or of all together.
#: `auto` is `acs` where all units are ReLUs, and under rows over several units; elsewhere it begins
#: as `kfsb` and goes on with the estimate alone where filtering is not worth it.
FILTERS: tuple[str, ...] = ("auto", "fsb", "kfsb")

#: Where smooth activations are cut: in the middle, or at zero where that is well inside.
Cut: TypeAlias = Literal["middle", "inflection"]


@dataclass(frozen=True)
class BranchingOptions:
    """How units are chosen.

    Attributes:
        name: of `SCORERS` or `FILTERS`.
        count: units that each estimate puts on the shortlist of `kfsb`.
        gain: how the gains of both children make one number: `min` or `product`.
        cost_adjusted: divide by the measured time of bounding all behind a unit's layer anew; for
            searches that do, and a preference for late layers in those that keep inner bounds.
        guided: prefer units on which the best attack candidates disagree.
        cut: where smooth activations are split.

    Raises:
        OptionError: a name is unknown or the count is not positive.
    """

    name: str = "auto"
    count: int = 3
    gain: str = "min"
    cost_adjusted: bool = False
    guided: bool = False
    cut: Cut = "inflection"

    def __post_init__(self) -> None:
        known = (*SCORERS, *FILTERS)
        if self.name not in known:
            raise OptionError(f"unknown branching '{self.name}'; known: {', '.join(known)}")
        if self.gain not in GAINS:
            raise OptionError(f"unknown gain '{self.gain}'; known: {', '.join(GAINS)}")
        if self.cut not in ("middle", "inflection"):
            raise OptionError(f"unknown cut '{self.cut}'; known: middle, inflection")
        if self.count < 1:
            raise OptionError(f"count must be positive, got {self.count}")
