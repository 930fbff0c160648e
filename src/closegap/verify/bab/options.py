"""How branch and bound searches."""

from __future__ import annotations

from dataclasses import dataclass, field

from closegap.bounds.optimise import AscentOptions
from closegap.branching.options import BranchingOptions
from closegap.core.errors import OptionError
from closegap.verify.bab.clipping import ClippingOptions
from closegap.verify.bab.learning import LearningOptions
from closegap.verify.bab.multineuron import MultiNeuronOptions
from closegap.verify.bab.small import SmallOptions
from closegap.verify.bab.waiting import LeafOptions

__all__ = ["BranchOptions"]


@dataclass(frozen=True)
class BranchOptions:
    """How to search.

    Attributes:
        batch: domains split at a time; the children are twice as many.
        root: climbing on the roots.
        children: climbing on every other domain.
        branching: which unit to split.
        offered: candidates offered from each batch, the lowest first.
        nodes: at most so many domains, or `None`.
        multineuron: constraints on groups of neurons, in trees that grow.
        clipping: boxes of domains, where inputs are few.
        learning: no-goods of closed domains, in trees that grow.
        small: subdomains that programs of their own may close.
        leaves: where these programs, and those of leaves, run.

    Raises:
        OptionError: the batch is empty.
    """

    batch: int = 64
    root: AscentOptions = field(default_factory=lambda: AscentOptions(iterations=60))
    children: AscentOptions = field(
        default_factory=lambda: AscentOptions(
            iterations=20, slope_rate=0.1, split_rate=0.3, decay=0.95, patience=6
        )
    )
    branching: BranchingOptions = field(default_factory=BranchingOptions)
    offered: int = 8
    nodes: int | None = None
    multineuron: MultiNeuronOptions = field(default_factory=lambda: MultiNeuronOptions(after=256))
    clipping: ClippingOptions = field(default_factory=ClippingOptions)
    learning: LearningOptions = field(default_factory=LearningOptions)
    small: SmallOptions = field(default_factory=SmallOptions)
    leaves: LeafOptions = field(default_factory=LeafOptions)

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise OptionError(f"the batch must be positive, got {self.batch}")
