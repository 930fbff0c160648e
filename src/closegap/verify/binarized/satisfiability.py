"""Proofs about binarized networks by a SAT solver with cardinality constraints.

The clause's margin is not positive for some signs of the layers: signs are Boolean variables, each
hidden sign is a reified count of literals, and the last layer is a weighted count. The signs of the
first layer that the box leaves open are free at first. A model's signs are checked by a linear
program over the box: where a Farkas ray proves that no input has them, the signs behind the ray
become a clause; where there is an input, it is offered. No model left means that the margin is
positive on the box. Whether a set of clauses has no model is the SAT solver's word.

A sign `h` with `h <=> at least k of n literals` becomes two native constraints on `h` and copies of
it: `k` copies of `h` and the negated literals, at most `n` true; `n - k + 1` copies of `not h` and
the literals, likewise. Source: Narodytska et al., Verifying Properties of Binarized Deep Neural
Networks (AAAI 2018); the native constraints are those of MiniCARD (Liffiton and Maglalang, 2012).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from closegap.core.budget import Budget
from closegap.core.numerics import gamma
from closegap.graph.binarized.first_layer import fixed_signs, sum_bounds
from closegap.graph.binarized.forward import BinarizedForward
from closegap.graph.binarized.intervals import interval_layer
from closegap.graph.binarized.linear_form import patch_matrix
from closegap.graph.binarized.records import SignLayer
from closegap.specs.query import Query
from closegap.specs.region import bounding_box
from closegap.verify.binarized.cells import CellPrograms, half_spaces

__all__ = ["SignFormula", "why_not"]

#: A native constraint's greatest weight, where weights are no small whole numbers.
_COPIES = 64
#: Conflicts between two looks at the clock.
_CONFLICTS = 500


def why_not(forward: BinarizedForward) -> str:
    """Why a network cannot be asked about this way; empty where it can."""
    network = forward.network
    if find_spec("pysat") is None:
        return "python-sat is not installed; pip install 'closegap[sat]'"
    layers = [network.first.thresholds, *(layer.thresholds for layer in network.hidden)]
    if any(layer.taken.shape[1] > 1 for layer in layers):
        return "signs pool several sums"
    if any((abs(patch_matrix(layer.patches)).data > 1).any() for layer in network.hidden):
        return "sums read a sign several times"
    return ""


class SignFormula:
    """One clause of a property: does some input of the box break it?

    Args:
        query: what to decide.
        forward: the network in exact form; `why_not` has nothing against it.
        clause: of the property.
        offer: told of inputs on the way; True ends the search.

    Attributes:
        models: how many models were looked at.
        proved: whether no input breaks the clause.
        lower: of the clause's margin, once it is proved.
        stuck: whether it gave up: a model was neither refuted nor realised.
    """

    def __init__(
        self,
        query: Query,
        forward: BinarizedForward,
        clause: int,
        offer: Callable[[NDArray[np.float64]], bool],
    ) -> None:
        from pysat.solvers import Solver  # optional, and native

        self._query, self._forward, self._offer = query, forward, offer
        self._clause = clause
        box = bounding_box(query.region)
        ends = box.lower.reshape(-1).astype(np.float64), box.upper.reshape(-1).astype(np.float64)
        first = forward.network.first
        bounds = sum_bounds(first, *ends)
        root = fixed_signs(first, bounds).astype(np.int64)
        self._free = np.flatnonzero(root == 0)
        self._cells = CellPrograms(half_spaces(first, bounds, ends, self._free))
        self._solver: Any = Solver(name="minicard")
        self._variables, self._copies = 0, dict[int, list[int]]()
        self.models, self.proved, self.stuck = 0, False, False
        self.lower, self._greatest = np.inf, 0.0
        self._root = root
        self._inputs = self._new(len(self._free))
        literals = np.zeros(len(root), dtype=np.int64)
        literals[self._free] = self._inputs
        self._last, self._last_root = self._layers(root, literals)
        self._weigh()

    def close(self) -> None:
        """Free the solver's memory."""
        self._solver.delete()

    def run(self, budget: Budget) -> None:
        """Look at models until there is none, an input is accepted or time is up."""
        while not (self.proved or self.stuck or budget.expired):
            self._solver.conf_budget(_CONFLICTS)
            answer = self._solver.solve_limited()
            if answer is None:
                continue
            if not answer:
                self.proved = True
                return
            # Variables that no constraint names are not in the model.
            model = -np.arange(1, self._variables + 1)
            found = np.array(self._solver.get_model() or [], dtype=np.int64)
            model[np.abs(found) - 1] = found
            if self._look(model, budget):
                return

    # -- building -----------------------------------------------------------------------------

    def _new(self, count: int) -> Int[np.ndarray, "count"]:
        begun = self._variables + 1
        self._variables += count
        return np.arange(begun, begun + count)

    def _copy(self, literal: int, count: int) -> list[int]:
        """So many literals that are true where the given one is, itself among them."""
        have = self._copies.setdefault(literal, [literal])
        for fresh in self._new(count - len(have)).tolist() if count > len(have) else ():
            self._solver.add_clause([-literal, fresh])
            have.append(fresh)
        return have[:count]

    def _layers(
        self, signs: Int[np.ndarray, "U"], literals: Int[np.ndarray, "U"]
    ) -> tuple[Int[np.ndarray, "last"], Int[np.ndarray, "last"]]:
        """Literals (0 where fixed) and fixed signs (0 where open) of the last sign layer."""
        for layer in self._forward.network.hidden:
            known = interval_layer(layer).signs(signs[None])[0]
            fresh = np.zeros(len(known), dtype=np.int64)
            open_ = np.flatnonzero(known == 0)
            fresh[open_] = self._new(len(open_))
            self._tie(layer, open_, (signs, literals), fresh)
            signs, literals = known, fresh
        return literals, signs

    def _tie(
        self,
        layer: SignLayer,
        open_: Int[np.ndarray, "open"],
        before: tuple[Int[np.ndarray, "E"], Int[np.ndarray, "E"]],
        fresh: Int[np.ndarray, "U"],
    ) -> None:
        signs, literals = before
        thresholds = layer.thresholds
        weights = patch_matrix(layer.patches).toarray()[:, thresholds.taken[:, 0]]
        weights = (weights * thresholds.sense[:, 0]).astype(np.int64)
        for unit in open_.tolist():
            column = weights[:, unit]
            counted = np.flatnonzero((column != 0) & (signs == 0))
            chosen = (literals[counted] * column[counted]).tolist()
            # 2 (true literals) - n + fixed >= threshold, and all of these have one parity.
            rest = int(thresholds.low[unit, 0]) - int(column @ signs)
            least = (rest + len(chosen) + 1) // 2
            self._reify(int(fresh[unit]), chosen, least)

    def _reify(self, sign: int, literals: list[int], least: int) -> None:
        """`sign <=> at least `least` of the literals`; `1 <= least <= n`."""
        count = len(literals)
        on, off = self._copy(sign, least), self._copy(-sign, count - least + 1)
        self._solver.add_atmost([*(-x for x in literals), *on], count)
        self._solver.add_atmost([*literals, *off], count)

    def _weigh(self) -> None:
        """The last layer: no row of the clause has a margin beyond its rounding."""
        last, prop = self._forward.network.last, self._query.prop
        for row in np.flatnonzero(prop.clause == self._clause).tolist():
            slope = (prop.rows[row] * last.factor) @ last.weight
            added = prop.rows[row] @ (last.factor * last.bias + last.offset) + prop.offsets[row]
            size = np.abs(prop.rows[row] * last.factor) @ np.abs(last.weight).sum(axis=1)
            size += np.abs(prop.rows[row]) @ (np.abs(last.factor * last.bias) + np.abs(last.offset))
            error = gamma(4 * (last.weight.size + len(slope) + 16)) * (
                size + abs(prop.offsets[row])
            )
            self.lower = min(self.lower, float(error))
            self._greatest = max(self._greatest, float(error))
            fixed = float(slope @ self._last_root) + added
            open_ = np.flatnonzero((self._last_root == 0) & (slope != 0))
            # fixed - sum |slope| + 2 sum of |slope| where the sign helps the margin <= error
            sizes = np.abs(slope[open_])
            room = (sizes.sum() - fixed + 3 * error) / 2
            literals = (self._last[open_] * np.sign(slope[open_]).astype(np.int64)).tolist()
            self._at_most(literals, sizes, float(room))

    def _at_most(self, literals: Sequence[int], sizes: Float[np.ndarray, "n"], room: float) -> None:
        """Weighted: the sizes of true literals sum to `room` or less; weights rounded down."""
        if room < 0:
            self.proved = True
            return
        if not len(sizes):
            return
        unit = sizes.min()
        whole = sizes / unit
        if (whole != np.rint(whole)).any() or whole.max() > _COPIES:
            unit = sizes.max() / _COPIES
        counts = np.floor(sizes / unit * (1 - gamma(8))).astype(np.int64)
        if (sizes == unit * np.rint(sizes / unit)).all():
            counts = np.rint(sizes / unit).astype(np.int64)
        most = int(np.floor(room / unit * (1 + gamma(8))))
        copies = [
            copy
            for literal, count in zip(literals, counts.tolist(), strict=True)
            for copy in self._copy(literal, count)
        ]
        if most < len(copies):
            self._solver.add_atmost(copies, most)

    # -- looking at models --------------------------------------------------------------------

    def _look(self, model: NDArray[np.int64], budget: Budget) -> bool:
        """Refute a model's signs, or offer an input that has them. True iff it was accepted."""
        self.models += 1
        signs = np.sign(model[self._inputs - 1])
        bits = self._root > 0
        bits[self._free] = signs > 0
        prop = self._query.prop
        margins = prop.clause_values(prop.row_margins(self._forward.outputs(bits[None])))
        if margins[0, self._clause] > 8 * self._greatest:
            return self._refute_sum(model)
        core, point = self._cells.ask(signs, budget.remaining)
        if core is not None:
            kept = self._shrunk(signs, core, budget)
            self._solver.add_clause((-self._inputs[kept] * signs[kept]).tolist())
            return False
        if point is not None:
            clear = self._cells.clear_points(signs, budget.remaining)
            if self._offer(point) or any(map(self._offer, clear)):
                return True
        self.stuck = not budget.expired
        return False

    def _refute_sum(self, model: NDArray[np.int64]) -> bool:
        """Weights were rounded down: the signs of the last layer alone do not break the clause."""
        literals = self._last[self._last != 0]
        self._solver.add_clause((-np.sign(model[literals - 1]) * literals).tolist())
        return False

    def _shrunk(
        self, signs: NDArray[np.int64], core: NDArray[np.int64], budget: Budget
    ) -> NDArray[np.int64]:
        """A smaller set of signs that no input has: try to do without each in turn."""
        kept = core
        for unit in core.tolist():
            if unit not in kept or len(kept) == 1 or budget.expired:
                continue
            without = np.zeros_like(signs)
            without[kept] = signs[kept]
            without[unit] = 0
            smaller, _ = self._cells.ask(without, budget.remaining)
            if smaller is not None:
                kept = smaller
        return kept
