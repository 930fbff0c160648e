"""What a user may say about an attack; what is left out keeps the attack's own default."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral

from closegap.core.errors import OptionError

__all__ = ["AttackOptions"]


@dataclass(frozen=True)
class AttackOptions:
    """Sizes of an attack; `None` keeps its default.

    Attributes:
        steps: gradient steps, or rounds of sampling.
        restarts: independent runs for each attacked clause.
        step_size: of the first step, as a share of the region's half-width.

    Raises:
        OptionError: a number is out of its range.
    """

    steps: int | None = None
    restarts: int | None = None
    step_size: float | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "restarts"):
            count = getattr(self, name)
            if count is not None and not isinstance(count, Integral):
                raise OptionError(f"{name} must be a whole number, got {count!r}")
        if self.steps is not None and self.steps < 1:
            raise OptionError(f"an attack needs at least 1 step, got {self.steps}")
        if self.restarts is not None and self.restarts < 1:
            raise OptionError(f"an attack needs at least 1 restart, got {self.restarts}")
        size = self.step_size
        if size is not None and not (math.isfinite(size) and size > 0):
            raise OptionError(f"the step size must be positive and finite, got {size}")
