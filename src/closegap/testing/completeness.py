"""Random tiny questions whose answers are known by enumeration, and how an answer is judged."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator

from closegap.core.numerics import OPTIMUM_TOLERANCE
from closegap.core.verdict import Verdict
from closegap.graph.network import Network
from closegap.specs.property import Property, robustness_property
from closegap.specs.query import Query
from closegap.specs.region import lp_ball
from closegap.strategy.result import Result
from closegap.testing import networks
from closegap.testing.enumeration import least_clause_margin

__all__ = ["KINDS", "Question", "judge_optimum", "judge_verdict", "random_question"]


def _dense(rng: Generator) -> Network:
    depth = int(rng.integers(1, 3))
    return networks.random_mlp(rng, [*rng.integers(2, 4, 1 + depth).tolist(), 3])


def _leaky(rng: Generator) -> Network:
    sizes = [2, *rng.integers(2, 5, 2).tolist(), 3]
    return networks.random_leaky(rng, sizes, slope=float(rng.choice([0.01, 0.1, 0.5])))


#: Kinds of networks by name; each draws one from a generator.
KINDS: dict[str, Callable[[Generator], Network]] = {
    "dense": _dense,
    "leaky": _leaky,
    "conv": lambda rng: networks.random_conv(rng, side=3),
    "residual": lambda rng: networks.random_residual(rng, side=2),
    "pooling": lambda rng: networks.random_pooled(rng, hidden=2),
}


@dataclass(frozen=True, eq=False)
class Question:
    """A query and its least margin.

    Attributes:
        query: with a least margin of `least`.
        least: by enumeration.
    """

    query: Query
    least: float

    def moved_to(self, least: float) -> Question:
        """The same question with its least margin elsewhere."""
        prop = self.query.prop
        offsets = prop.offsets + (least - self.least)
        return Question(replace(self.query, prop=replace(prop, offsets=offsets)), least)


def random_question(rng: Generator, kind: str) -> Question:
    """A random network of a kind, a random ball (linf or l1) and a random property."""
    network = KINDS[kind](rng)
    center = rng.uniform(0.2, 0.8, network.input_shape).astype(np.float32)
    norm = math.inf if rng.random() < 0.7 else 1.0
    ball = lp_ball(center, float(rng.choice([0.02, 0.1, 0.2])), norm=norm)
    prop = robustness_property(int(rng.integers(3)), 3)
    if rng.random() < 0.5:
        rows = rng.normal(size=(3, 3))
        strict = bool(rng.random() < 0.5)
        prop = Property(rows, rng.normal(size=3), np.array([0, 1, 1]), strict, ("one", "two"))
    query = Query(network, ball, prop, center=center)
    return Question(query, min(least_clause_margin(query, k) for k in range(prop.clauses)))


def judge_verdict(question: Question, result: Result) -> str:
    """`right`, `open`, or what is wrong with a verdict on a least margin away from zero."""
    if result.verdict is Verdict.UNKNOWN:
        return "open"
    return "right" if (result.verdict is Verdict.VERIFIED) is (question.least > 0) else "wrong"


def judge_optimum(question: Question, result: Result) -> str:
    """`right`, `open`, or `wrong` where a bracket excludes the least margin."""
    tolerance = OPTIMUM_TOLERANCE * max(1.0, abs(question.least))
    below, above = question.least - result.bracket.lower, result.bracket.upper - question.least
    if min(below, above) < -tolerance / 10:
        return "wrong"
    return "right" if max(below, above) <= 2 * tolerance else "open"
