"""Proofs of signs by a SAT solver against enumeration, the tree and the integer program."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from closegap.attacks.binarized.milp import sign_program
from closegap.attacks.binarized.problem import binarized_problem
from closegap.core.budget import Budget
from closegap.graph.binarized.forward import BinarizedForward
from closegap.mip.model import SolveOptions, Status
from closegap.mip.registry import choose
from closegap.runtime.cache import binarized, compiled
from closegap.specs.property import Property
from closegap.specs.query import Query, robustness
from closegap.testing.enumeration import clause_margin, least_clause_margin, linear_pieces
from closegap.testing.networks import random_sign
from closegap.verify.binarized import satisfiability
from closegap.verify.binarized.satisfiability import SignFormula, why_not
from closegap.verify.binarized.tree import SignSearch

needs_pysat = pytest.mark.skipif(
    satisfiability.find_spec("pysat") is None, reason="python-sat is not installed"
)


def tiny(seed: int, sizes: list[int], eps: float) -> Query:
    rng = np.random.default_rng(seed)
    net = random_sign(rng, sizes)
    image = rng.random(sizes[0]).astype(np.float32)
    with torch.no_grad():
        label = int(compiled(net, torch.float64)(torch.from_numpy(image[None]).double()).argmax())
    return robustness(net, image, label, eps)


def asked(q: Query, clause: int) -> tuple[SignFormula, list[np.ndarray]]:
    form, points = binarized(q.network), []
    assert not isinstance(form, str)

    def offer(point: np.ndarray) -> bool:
        points.append(point)
        return bool(clause_margin(q, clause, point[None])[0] <= 0)

    formula = SignFormula(q, form, clause, offer)
    formula.run(Budget.of_seconds(20))
    formula.close()
    return formula, points


@needs_pysat
@pytest.mark.parametrize("sizes", [[6, 6, 3], [6, 5, 5, 3], [7, 5, 6, 6, 3]])
def test_it_agrees_with_enumeration_the_tree_and_the_program(sizes: list[int]) -> None:
    seen = set()
    for seed in range(3):
        q = tiny(seed, sizes, 0.12)
        pieces, form = list(linear_pieces(q)), binarized(q.network)
        problem = binarized_problem(q, "test")
        assert problem is not None
        assert not isinstance(form, str)
        tree = SignSearch(q, form, np.arange(q.prop.clauses), lambda point: False)
        tree.run(Budget.of_seconds(10))
        for clause in range(q.prop.clauses):
            least = least_clause_margin(q, clause, pieces)
            formula, points = asked(q, clause)
            assert formula.proved == (least > 0) == (tree.lower(clause) > 0)
            assert not formula.proved or 0 < formula.lower <= least
            assert formula.proved or clause_margin(q, clause, points[-1][None])[0] <= 0
            if clause == seed == 0:
                program = sign_program(problem, clause, Budget(), least=0.0)
                assert program is not None
                claim = choose("mip")[0].solve(program.model, SolveOptions(time_limit=10))
                assert (claim.status is Status.INFEASIBLE) == formula.proved
            seen.add(formula.proved)
    assert seen == {True, False}


@needs_pysat
def test_weights_of_any_size_and_several_rows_a_clause() -> None:
    rng = np.random.default_rng(7)
    seen = set()
    for seed in range(6):
        base = tiny(seed, [6, 5, 5, 3], 0.2)
        rows = rng.normal(size=(2, 3))
        offsets = rng.normal(size=2) + 1.0
        q = Query(
            base.network,
            base.region,
            Property(rows, offsets, np.zeros(2, np.int64), False, ("both",)),
        )
        least = least_clause_margin(q, 0)
        assert asked(q, 0)[0].proved == (least > 0)
        seen.add(least > 0)
    assert seen == {True, False}


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    form = binarized(tiny(0, [6, 5, 3], 0.1).network)
    assert not isinstance(form, str)
    monkeypatch.setattr(satisfiability, "find_spec", lambda name: None)
    assert "python-sat" in why_not(form)


@needs_pysat
def test_signs_that_a_sum_reads_several_times_are_refused() -> None:
    q = tiny(0, [6, 5, 3, 3], 0.1)
    form = binarized(q.network)
    assert not isinstance(form, str)
    assert why_not(form) == ""
    (layer,) = form.network.hidden
    twice = replace(layer.patches, gather=layer.patches.gather[:, [0, 0, 1, 2, 3]])
    hidden = (replace(layer, patches=twice),)
    assert "several times" in why_not(BinarizedForward(replace(form.network, hidden=hidden)))
