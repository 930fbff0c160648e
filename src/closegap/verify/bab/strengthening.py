"""When a tree looks for rows over groups of neurons, and whether it goes on with them.

Rows are tried on a few open domains, beside what the tree has and beside none. A domain whose bound
is `d` below zero needs about `d / g` levels of splits where a split gains `g`, hence `2^(d / g)`
subdomains; times the seconds of one that is the work left, and the tree goes on with the least.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from closegap.bounds.constraints import ConstraintSet
from closegap.bounds.multineuron.cuts import HullCuts
from closegap.bounds.multineuron.vectors import HullVectors
from closegap.bounds.multineuron.vertices import GREATEST_GROUP
from closegap.bounds.optimise import AscentOptions
from closegap.core.budget import Budget
from closegap.core.numerics import TINY
from closegap.search.tree import Tree
from closegap.verify.bab.bounder import DomainBounder
from closegap.verify.bab.constraints import DomainConstraints
from closegap.verify.bab.domains import DomainBatch
from closegap.verify.bab.given import GivenRows, with_given
from closegap.verify.bab.multineuron import (
    FIRST_SIZE,
    JointRows,
    MultiNeuronOptions,
    joint_rows,
    without_rows,
)
from closegap.verify.bab.owned import OwnedCuts
from closegap.verify.bab.problem import SplitProblem
from closegap.verify.bab.units import is_hinge

__all__ = ["Strengthening", "Trial"]

#: Open domains on which rows are tried; as many as there are roots, if these are more.
_SAMPLE = 16
#: Rows are looked for again when the tree has grown so many times, from so many nodes on; sooner
#: where the last ones paid.
_AGAIN, _SOONER, _LEAST = 4, 2, 256
#: Larger groups take three times as long to find; they are tried when the tree has grown so many
#: times, and at every look after one at which they did best.
_LARGER = 16
#: What a split gains is the mean over so many of the newest nodes.
_NEWEST = 256
#: Before any split it is taken to gain this share of what is missing.
_GUESSED = 0.1
#: So much longer a domain with rows is taken to last where answers may not depend on the clock.
_DEARER = 1.25


@dataclass(frozen=True, eq=False)
class Trial:
    """What came out on some open domains.

    Attributes:
        lower: proved lower bounds, `[M]`.
        rows: what to go on with; `None` for what the tree has.
        closing: share of the domains that these rows close.
    """

    lower: Float[np.ndarray, "M"]
    rows: JointRows | None = None
    closing: float = 0.0


class Strengthening:
    """The rows of one tree.

    Args:
        problem: what is searched.
        options: which groups, and from how many nodes on.
        climb: on domains of the tree.

    Attributes:
        constraints: the rows that the tree goes on with.
        closing: share of the last children that were closed.
    """

    def __init__(
        self, problem: SplitProblem, options: MultiNeuronOptions, climb: AscentOptions
    ) -> None:
        self._problem = problem
        self._options = options
        self._climb = climb
        nodes = problem.exact.network.nodes
        hinges = any(is_hinge(nodes[layer.activation].op) for layer in problem.layers)
        self._due = options.after if hinges else None
        self._larger = _LARGER * max(options.after or 0, _LEAST)
        self._known: set[int] = set()
        self._waiting: tuple[GivenRows, ...] = ()
        self.constraints = DomainConstraints()
        self.closing = 0.0

    @property
    def waiting(self) -> bool:
        """Rows that others found are to be tried."""
        return bool(self._waiting)

    def give(self, rows: Sequence[GivenRows]) -> None:
        """Rows that others found, of clauses of which none were given before."""
        fresh = tuple(given for given in rows if given.clause not in self._known)
        self._waiting += fresh
        self._known.update(given.clause for given in fresh)

    @property
    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """What a continued search needs."""
        found: dict[str, NDArray[np.generic]] = {
            "rows_due": np.array([-1 if self._due is None else self._due]),
            "rows_larger": np.array([self._larger]),
            "rows_closing": np.array([self.closing]),
            "rows_sets": np.array([len(self.constraints.exact)]),
            "rows_known": np.array([sorted(self._known)], dtype=np.int64),
        }
        for place, cuts in enumerate(self.constraints.exact):
            assert isinstance(cuts, HullCuts | HullVectors | OwnedCuts)
            found.update({f"rows_{place}_{name}": a for name, a in cuts.arrays().items()})
        return found

    def restore(self, arrays: Mapping[str, NDArray[np.generic]]) -> None:
        """Go on from `arrays`.

        Raises:
            ValueError: they are damaged, or of another network.
        """
        nodes = self._problem.exact.network.nodes
        sets: list[ConstraintSet] = []
        try:
            due, self.closing = int(arrays["rows_due"][0]), float(arrays["rows_closing"][0])
            self._larger = int(arrays["rows_larger"][0])
            for place in range(int(arrays["rows_sets"][0])):
                start = f"rows_{place}_"
                part = {n[len(start) :]: a for n, a in arrays.items() if n.startswith(start)}
                sets.append(_kind(part).of_arrays(part, nodes))
            self._known = set(arrays["rows_known"].reshape(-1).tolist())
        except (KeyError, IndexError) as error:
            raise ValueError(f"the tree's rows are damaged: {error}") from None
        self._due = None if due < 0 else due
        self.constraints = DomainConstraints.of(*sets)

    def due(self, nodes: int, open_nodes: int) -> bool:
        """True iff it is time to look for rows, or some are given."""
        if self._waiting:
            return True
        if self._due is None:
            return False
        return replace(self._options, after=self._due).due(nodes, open_nodes, self.closing)

    def sample(self, tree: Tree, nodes: Int[np.ndarray, "B"]) -> Int[np.ndarray, "M"]:
        """Some open nodes, of every root, with all sorts of bounds; in order."""
        roots = tree.root(nodes)
        order = np.lexsort((tree.lower(nodes), roots))
        count = min(len(nodes), max(_SAMPLE, len(np.unique(roots))))
        return np.sort(nodes[order[np.linspace(0, len(nodes) - 1, count).astype(np.int64)]])

    def tried(
        self, batch: DomainBatch, tree: Tree, bounder: DomainBounder, budget: Budget
    ) -> Trial:
        """Look for rows that help these domains, or take those that are given, and compare.

        Args:
            batch: a sample, with starts that know the present rows.
            tree: tells what splits gain.
            bounder: of the tree's domains.
            budget: what it cuts short is looser. Under a node limit the clock does not count.
        """
        present = self.constraints.width
        ways = [without_rows(self._problem, batch, present)]
        if present:
            ways.append(JointRows(self.constraints, batch, np.arange(present), present))
        found = self._found(batch, len(tree), budget)
        ways += found
        lowers, work = [], []
        for way in ways:
            started = time.thread_time()
            tried = DomainBounder(self._problem, self._climb, way.constraints)
            tried.scales = bounder.scales
            lowers.append(tried.bound(way.batch, budget).lower)
            seconds = time.thread_time() - started
            if budget.nodes is not None:
                seconds = _DEARER if way.constraints.width else 1.0
            gain = tree.recent_gain(_NEWEST)
            if gain <= 0:
                gain = _GUESSED * float(np.maximum(-lowers[0], 0).mean())
            work.append(_work(lowers[-1], gain, seconds))
        lower, best = np.max(lowers, axis=0), int(np.argmin(work))
        chosen = ways[best]
        if chosen.constraints is self.constraints or chosen.constraints.width == present == 0:
            return Trial(lower)
        self.constraints = chosen.constraints
        if len(found) > 1 and chosen is found[-1]:
            self._larger = 0
        if self._due is not None and chosen.constraints.width > present:
            self._due = max(_SOONER * len(tree), _LEAST)
        return Trial(lower, chosen, float((lowers[best] > 0).mean()))

    def _found(self, batch: DomainBatch, nodes: int, budget: Budget) -> list[JointRows]:
        """The present rows and more of them."""
        if self._waiting:
            given, self._waiting = self._waiting, ()
            rows = with_given(self._problem, batch, self.constraints, given)
            return [] if rows is None else [rows]
        self._due = max(_AGAIN * nodes, _LEAST)
        return [
            joint_rows(
                self._problem, batch, self.constraints, replace(self._options, size=size), budget
            )
            for size in self._sizes(nodes)
        ]

    def _sizes(self, nodes: int) -> tuple[int, ...]:
        """Of the groups that are looked for in a tree of so many nodes."""
        if self._options.size is not None:
            return (self._options.size,)
        if nodes < self._larger:
            return (FIRST_SIZE,)
        self._larger = _LARGER * nodes
        return (FIRST_SIZE, GREATEST_GROUP)


def _kind(
    arrays: Mapping[str, NDArray[np.generic]],
) -> type[HullCuts] | type[HullVectors] | type[OwnedCuts]:
    """Of which set these are."""
    if "roots" in arrays:
        return OwnedCuts
    return HullVectors if "units" in arrays else HullCuts


def _work(lower: Float[np.ndarray, "M"], gain: float, seconds: float) -> float:
    """The logarithm of the seconds that are left, with bounds `lower`; before any split, deficits.

    Args:
        lower: of the sample.
        gain: of a split.
        seconds: a domain.
    """
    deficits = np.maximum(-lower, 0)
    if gain <= 0:
        return float(deficits.mean())
    levels = np.where(lower > 0, 0.0, np.maximum(deficits / gain, 1.0))
    return float(np.log2(max(seconds, TINY)) + levels.mean())
