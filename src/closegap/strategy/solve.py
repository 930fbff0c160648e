"""Solve one query: run engines in order over one shared bracket until it closes."""

from __future__ import annotations

from closegap.core.budget import Budget
from closegap.specs.query import Query
from closegap.strategy.result import Result

__all__ = ["DEFAULT_ENGINES", "solve"]

#: The order in which engines run unless the user says otherwise.
DEFAULT_ENGINES: tuple[str, ...] = ("clean", "pgd", "crown", "alpha-crown", "mip")


def solve(
    query: Query,
    *,
    timeout: float = 60.0,
    engines: tuple[str, ...] = DEFAULT_ENGINES,
    budget: Budget | None = None,
) -> Result:
    """Close the query's bracket as far as the time allows.

    Args:
        query: what to decide.
        timeout: seconds; kept.
        engines: names, in the order to run them.
        budget: replaces `timeout` where more than a deadline is to be limited.

    Raises:
        OptionError: an engine's name is unknown, or the timeout is negative or NaN.
    """
    raise NotImplementedError
