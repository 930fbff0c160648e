"""Every registered attack passes the shipped suite."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from closegap.attacks.activation.bab_attack.attack import BabAttack, BabAttackOptions
from closegap.attacks.activation.lippa import LippaAttack, LippaOptions
from closegap.attacks.activation.query_attack import Attack
from closegap.attacks.activation.region_walk import RegionWalkAttack, RegionWalkOptions
from closegap.attacks.gradient.descent import Descent
from closegap.attacks.gradient.hopping import Hopping, hop_pgd
from closegap.attacks.gradient.options import AttackOptions
from closegap.attacks.gradient.registry import METHODS, make_method
from closegap.attacks.registry import ENSEMBLES, make_attack
from closegap.core.errors import OptionError
from closegap.testing.attack_case import AttackCase


class Registered(AttackCase):
    name = ""

    def method(self) -> Attack:
        if self.name == "hop-pgd":
            return Hopping(hops=2, restarts=3, descent=Descent("hop", steps=3, step_size=0.3))
        small = AttackOptions() if self.name == "fgsm" else AttackOptions(steps=8, restarts=3)
        if self.name in ENSEMBLES:
            small = AttackOptions(steps=1, restarts=2)
        return make_attack(self.name, small)


class TestLippa(AttackCase):
    def method(self) -> Attack:
        return LippaAttack(LippaOptions(step_size=0.02, steps=10, hops=3))


class TestRegionWalk(AttackCase):
    def method(self) -> Attack:
        return RegionWalkAttack(RegionWalkOptions(rounds=2, steps=6, restarts=3, starts=2))


class TestStraightThrough(AttackCase):
    def method(self) -> Attack:
        return make_attack("ste-pgd", AttackOptions(steps=6, restarts=2))


class TestBabAttack(AttackCase):
    def method(self) -> Attack:
        quick = replace(hop_pgd(AttackOptions(steps=3, restarts=3)), hops=1)
        return BabAttack(BabAttackOptions(hopping=quick, walks=1, rounds=1))


NEEDS_LABEL = (
    "pgd-ce",
    "gama-pgd",
    "di-fgsm",
    "apgd-ce",
    "apgd-dlr",
    "apgd-t",
    "daa",
    "autoattack",
    "autoattack-plus",
)

for _name in [*METHODS, *ENSEMBLES]:
    _title = "Test" + "".join(part.capitalize() for part in _name.split("-"))
    globals()[_title] = type(
        _title, (Registered,), {"name": _name, "any_property": _name not in NEEDS_LABEL}
    )


def test_an_unknown_attack_is_named_with_those_there_are() -> None:
    with pytest.raises(OptionError, match=r"'nonsense'.*pgd"):
        make_method("nonsense")


@pytest.mark.parametrize(
    "name", ["bab-attack", "lns", "dive", "beam", "lippa", "region-walk", "mip", "mt-pgd"]
)
def test_attacks_of_both_kinds_are_found_by_name(name: str) -> None:
    assert make_attack(name, AttackOptions(steps=3, restarts=2)).name == name
    with pytest.raises(OptionError, match=r"'nonsense'.*lippa"):
        make_attack("nonsense")


def test_fgsm_takes_one_step() -> None:
    assert make_method("fgsm", AttackOptions(steps=1)).steps == 1
    with pytest.raises(OptionError, match="one step"):
        make_method("fgsm", AttackOptions(steps=5))


@pytest.mark.parametrize(
    "bad", [{"steps": 0}, {"restarts": -1}, {"step_size": 0.0}, {"step_size": float("nan")}]
)
def test_options_out_of_range_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="got"):
        AttackOptions(**bad)
