"""Which solver is chosen, and that asking imports none."""

from __future__ import annotations

import subprocess
import sys

import pytest

from closegap.core.errors import MissingDependencyError, OptionError
from closegap.mip import registry
from closegap.mip.highs import HighsBackend
from closegap.mip.scip import ScipInProcess


def test_integer_programs_go_to_a_killable_solver() -> None:
    solver, note = registry.choose("mip")
    assert (solver.name, note) == ("scip", "")
    assert solver.capabilities.killable


def test_linear_programs_go_where_duals_are() -> None:
    solver, note = registry.choose("lp")
    assert (solver.name, note) == ("highs", "")
    assert solver.capabilities.duals


def test_preference_is_followed() -> None:
    solver, note = registry.choose("mip", "highs-process")
    assert (solver.name, note) == ("highs-process", "")


def test_a_missing_solver_is_replaced_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ScipInProcess, "installed", lambda self: False)
    solver, note = registry.choose("mip", "scip")
    assert solver.name == "highs-process"
    assert note == "solver scip is not installed; highs-process is used"
    assert "scip" not in registry.available()
    assert {"highs", "highs-process"} <= set(registry.available())
    monkeypatch.setattr(HighsBackend, "installed", lambda self: False)
    with pytest.raises(MissingDependencyError, match="mip"):
        registry.choose("mip")


def test_wrong_names_are_refused() -> None:
    with pytest.raises(OptionError, match="'cplex' is unknown"):
        registry.choose("mip", "cplex")
    with pytest.raises(OptionError, match="cannot be used for lp"):
        registry.choose("lp", "scip")


def test_one_object_for_each_name() -> None:
    assert registry.backend("scip") is registry.backend("scip")


def test_asking_imports_no_solver() -> None:
    code = (
        "import sys; from closegap.mip.registry import available, choose; choose('mip');"
        "heavy = {'highspy', 'pyscipopt', 'clarabel', 'torch'};"
        "assert available(); assert not heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
