"""What every backend of continuous programs with cones must keep: subclass `ConicBackendCase`.

Truth comes from scipy's linear solver, from tangents under HiGHS, from closed forms, and from
duality: multipliers of rows and cones are evaluated in exact arithmetic's bounds.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.sparse import csr_array, hstack, vstack

from closegap.core.errors import OptionError
from closegap.core.numerics import FLOAT64_UNIT
from closegap.encode.distances import tangents
from closegap.mip.certify import certified_lower_bound, certifies_infeasibility
from closegap.mip.conic import ConicModel
from closegap.mip.model import Array, Cone, MipBackend, Model, SolveOptions, Status
from closegap.mip.registry import backend
from closegap.testing.mip_models import (
    infeasible,
    linprog_optimum,
    random_binary,
    random_linear,
    relaxed,
    small_model,
)

__all__ = ["ConicBackendCase", "by_tangents", "random_conic", "with_cone_duals"]

#: How far optima, violations and bounds of programs with numbers of order one may lie apart.
_CLOSE = 1e-6
#: Rounds of tangents.
_ROUNDS = 200


def random_conic(rng: np.random.Generator, *, rows: int, columns: int, cones: int) -> Model:
    """A feasible program in a box: some of its columns are in cones, whose bounds cost something.

    Half of the bounds are in rows, too.
    """
    linear = random_linear(rng, rows=rows, columns=columns)
    extra = csr_array(np.where(np.arange(cones) % 2, 1.0, 0.0) * rng.random((rows, cones)))
    groups = np.array_split(rng.permutation(columns)[: 3 * cones], cones)
    wide = np.where(np.isinf(linear.row_lower), linear.row_upper + 10, math.inf)
    return replace(
        linear,
        cost=np.append(linear.cost, 0.2 + rng.random(cones)),
        matrix=csr_array(hstack([linear.matrix, extra], format="csr")),
        row_upper=wide,  # what the bounds add is positive: the program stays feasible
        lower=np.append(linear.lower, np.zeros(cones)),
        upper=np.append(linear.upper, np.full(cones, 10.0)),
        integer=np.zeros(columns + cones, dtype=np.bool_),
        cones=tuple(Cone(np.sort(g), columns + at) for at, g in enumerate(groups)),
    )


def by_tangents(model: Model) -> float:
    """The optimum by linear programs, with tangents until the cones hold to 1e-9 or so."""
    outer = replace(model, cones=())
    for _ in range(_ROUNDS):
        claim = backend("highs").solve(outer, SolveOptions())
        assert claim.status is Status.OPTIMAL and claim.point is not None
        rows = tangents(model.cones, claim.point, _CLOSE / 100)
        if not rows.shape[0]:
            return claim.objective
        count = rows.shape[0]
        outer = replace(
            outer,
            matrix=csr_array(vstack([outer.matrix, rows], format="csr")),
            row_lower=np.append(outer.row_lower, np.full(count, -math.inf)),
            row_upper=np.append(outer.row_upper, np.zeros(count)),
        )
    raise AssertionError(f"{_ROUNDS} rounds of tangents were too few")


def with_cone_duals(model: Model, row_duals: Array, cone_duals: Array) -> tuple[Model, Array]:
    """The program with the tangents of its cones that multipliers stand for, and these' duals.

    A multiplier `(z_0, z)` of a cone, `||z|| <= z_0`, is `||z||` times the tangent
    `-(z / ||z||) . v[columns] <= v[bound]`, and more of the bound's column being positive. Tangents
    hold wherever the cones do, so what `certify` makes of the answer is a bound of the program.
    """
    held = ConicModel.of(model)
    starts, rows, duals = np.cumsum((0, *held.sizes)), [np.zeros((0, model.columns))], []
    for cone, start, end in zip(model.cones, starts[:-1], starts[1:], strict=True):
        push = cone_duals[start + 1 : end]
        length = float(np.linalg.norm(push))
        shorter = (1 - 8 * (len(push) + 4) * FLOAT64_UNIT) / length if length > 0 else 0.0
        row = np.zeros((1, model.columns))
        row[0, cone.columns] = -push * shorter
        row[0, cone.bound] -= 1.0
        rows.append(row)
        duals.append(-length)
    outer = replace(
        model,
        matrix=csr_array(np.vstack([model.matrix.toarray(), *rows])),
        row_lower=np.append(model.row_lower, np.full(len(duals), -math.inf)),
        row_upper=np.append(model.row_upper, np.zeros(len(duals))),
        cones=(),
    )
    return outer, np.append(row_duals, duals)


class ConicBackendCase:
    """The suite."""

    def backend(self) -> MipBackend:
        """The backend."""
        raise NotImplementedError

    def test_linear_optimum_is_scipys(self, rng: np.random.Generator) -> None:
        """Optimum, bound, point; duals with the documented sign certify the bound."""
        for _ in range(5):
            model = random_linear(rng, rows=12, columns=20)
            claim, wanted = self.backend().solve(model, SolveOptions()), linprog_optimum(model)
            assert claim.status is Status.OPTIMAL
            assert claim.objective == pytest.approx(wanted, abs=_CLOSE)
            assert claim.bound == pytest.approx(wanted, abs=_CLOSE)
            assert claim.point is not None and model.violation(claim.point) <= _CLOSE
            assert claim.row_duals is not None and claim.reduced_costs is not None
            pushed = model.cost - model.matrix.T @ claim.row_duals
            np.testing.assert_allclose(pushed, claim.reduced_costs, atol=_CLOSE)
            certified = certified_lower_bound(model, claim.row_duals)
            assert wanted - _CLOSE <= certified <= wanted + _CLOSE / 10

    def test_conic_optimum_is_that_of_tangents(self, rng: np.random.Generator) -> None:
        """And what its multipliers prove is the optimum, too."""
        for _ in range(8):
            model = random_conic(rng, rows=6, columns=14, cones=4)
            claim, wanted = self.backend().solve(model, SolveOptions()), by_tangents(model)
            assert claim.status is Status.OPTIMAL
            assert claim.objective == pytest.approx(wanted, abs=10 * _CLOSE)
            assert claim.point is not None and model.violation(claim.point) <= _CLOSE
            assert claim.row_duals is not None and claim.cone_duals is not None
            certified = certified_lower_bound(
                *with_cone_duals(model, claim.row_duals, claim.cone_duals)
            )
            assert wanted - 10 * _CLOSE <= certified <= wanted + _CLOSE

    def test_distance_to_a_half_space(self, rng: np.random.Generator) -> None:
        """`min ||x - p||` where `a . x >= b` and nothing else: `(b - a . p) / ||a||`."""
        point, gains = rng.random(5), rng.normal(size=5)
        need = float(gains @ point) + 1.0
        matrix = np.zeros((6, 11))
        matrix[:5, :5], matrix[:5, 5:10], matrix[5, :5] = np.eye(5), -np.eye(5), gains
        model = Model(
            cost=np.append(np.zeros(10), 1.0),
            matrix=csr_array(matrix),
            row_lower=np.append(point, need),
            row_upper=np.append(point, math.inf),
            lower=np.append(np.full(10, -math.inf), 0.0),
            upper=np.full(11, math.inf),
            integer=np.zeros(11, dtype=np.bool_),
            constant=2.0,
            cones=(Cone(np.arange(5, 10), 10),),
        )
        claim = self.backend().solve(model, SolveOptions())
        wanted = 2.0 + 1.0 / float(np.linalg.norm(gains))
        assert claim.objective == pytest.approx(wanted, abs=_CLOSE)
        assert claim.bound == pytest.approx(wanted, abs=_CLOSE)

    def test_infeasible(self, rng: np.random.Generator) -> None:
        """By rows, with a ray that certifies it; by a cone; by sides that cross."""
        model = infeasible(rng, integer=False)
        cone = replace(
            small_model([[1.0, 0.0]], [0.0, 1.0], rows=(0.9, 1.0)), upper=np.array([1.0, 0.5])
        )
        cone = replace(cone, cones=(Cone(np.array([0]), 1),))
        crossing = replace(model, lower=model.upper + 1)
        for broken in (model, cone, crossing):
            claim = self.backend().solve(broken, SolveOptions())
            assert claim.status is Status.INFEASIBLE
            assert (claim.bound, claim.objective, claim.point) == (math.inf, math.inf, None)
            if claim.row_duals is not None and claim.cone_duals is not None:
                outer = with_cone_duals(broken, claim.row_duals, claim.cone_duals)
                assert certifies_infeasibility(*outer)

    def test_unbounded(self) -> None:
        """Status, and no bound."""
        model = small_model([[1.0, -1.0]], [-1.0, 0.0], rows=(0.0, math.inf))
        model = replace(model, upper=np.full(2, math.inf))
        for cones in ((), (Cone(np.array([1]), 0),)):
            claim = self.backend().solve(replace(model, cones=cones), SolveOptions())
            assert claim.status is Status.UNBOUNDED
            assert claim.bound == -math.inf

    def test_fixed_columns_equations_and_nothing(self) -> None:
        """Columns without room, equal sides, no row, no free column."""
        model = small_model([[1.0, 1.0]], [1.0, 2.0], rows=(1.0, 1.0))
        fixed = replace(model, lower=np.array([0.25, 0.0]), upper=np.array([0.25, 1.0]))
        both = replace(fixed, upper=np.array([0.25, 0.75]), lower=np.array([0.25, 0.75]))
        rowless = small_model(np.zeros((0, 2)), [1.0, -2.0], rows=(0.0, 0.0))
        for kind, wanted in ((model, 1.0), (fixed, 1.75), (both, 1.75), (rowless, -2.0)):
            claim = self.backend().solve(kind, SolveOptions())
            assert claim.status is Status.OPTIMAL
            assert claim.objective == pytest.approx(wanted, abs=_CLOSE)
            assert claim.bound == pytest.approx(wanted, abs=_CLOSE)
        outside = replace(both, row_lower=np.array([1.5]), row_upper=np.array([1.5]))
        assert self.backend().solve(outside, SolveOptions()).status is Status.INFEASIBLE

    def test_nan_and_integers_are_refused(self, rng: np.random.Generator) -> None:
        """Failed claims that say so."""
        model = random_binary(rng, rows=3, binaries=3, reals=2)
        claim = self.backend().solve(model, SolveOptions())
        assert claim.status is Status.FAILED and "integers" in claim.detail
        for broken in (
            replace(relaxed(model), cost=np.full(5, math.nan)),
            replace(relaxed(model), upper=np.full(5, math.nan)),
        ):
            claim = self.backend().solve(broken, SolveOptions())
            assert claim.status is Status.FAILED and "NaN" in claim.detail
        with pytest.raises(OptionError):
            self.backend().session(relaxed(model))

    def test_limits_end_it(self, rng: np.random.Generator) -> None:
        """No time; too little; interrupted; what a poll raises."""
        model = random_conic(rng, rows=60, columns=300, cones=60)
        assert self.backend().solve(model, SolveOptions(time_limit=0.0)).status is Status.TIME
        short = self.backend().solve(model, SolveOptions(time_limit=_CLOSE))
        assert short.status is Status.TIME and short.point is None and short.bound == -math.inf
        stopped = self.backend().solve(model, SolveOptions(interrupted=lambda: True))
        assert stopped.status is Status.INTERRUPTED and stopped.bound == -math.inf

        def broken() -> bool:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            self.backend().solve(model, SolveOptions(interrupted=broken))
        assert self.backend().solve(model, SolveOptions()).status is Status.OPTIMAL
