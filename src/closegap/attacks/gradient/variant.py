"""What descents that change the gradients of another one share with it."""

from __future__ import annotations

from dataclasses import dataclass

from closegap.attacks.gradient.descent import Descent

__all__ = ["DescentVariant"]


@dataclass(frozen=True)
class DescentVariant:
    """A gradient method named and sized as the descent it stands on.

    Attributes:
        descent: whose steps are taken.
    """

    descent: Descent

    @property
    def name(self) -> str:
        """Of the descent."""
        return self.descent.name

    @property
    def steps(self) -> int:
        """Of the descent."""
        return self.descent.steps

    @property
    def restarts(self) -> int:
        """Of the descent."""
        return self.descent.restarts

    @property
    def targets(self) -> int:
        """Of the descent."""
        return self.descent.targets
