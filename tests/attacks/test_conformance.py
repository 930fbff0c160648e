"""Every registered attack passes the shipped suite, and none is below the enumerated optimum."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from closegap.attacks.activation.bab_attack.attack import BabAttack, BabAttackOptions
from closegap.attacks.activation.lippa import LippaAttack, LippaOptions
from closegap.attacks.activation.query_attack import Attack, run_attack
from closegap.attacks.activation.region_walk import RegionWalkAttack, RegionWalkOptions
from closegap.attacks.gradient.descent import Descent
from closegap.attacks.gradient.hopping import Hopping, hop_pgd
from closegap.attacks.gradient.options import AttackOptions
from closegap.attacks.gradient.registry import METHODS, make_method
from closegap.attacks.registry import ENSEMBLES, QUERY_ATTACKS, make_attack
from closegap.core.budget import Budget
from closegap.core.errors import OptionError
from closegap.data import DataSet
from closegap.evaluate import Question
from closegap.evaluate.attacking import attack_data
from closegap.frontend import from_torch
from closegap.runtime.cache import compiled, replayer
from closegap.runtime.torch_network import TorchNetwork
from closegap.specs.query import Query, robustness
from closegap.specs.region import contains
from closegap.testing.attack_case import AttackCase
from closegap.testing.enumeration import least_clause_margin
from closegap.testing.networks import random_mlp, random_sign


class Registered(AttackCase):
    name = ""

    def method(self) -> Attack:
        if self.name == "hop-pgd":
            return Hopping(hops=2, restarts=3, descent=Descent("hop", steps=3, step_size=0.3))
        return make_attack(self.name, small(self.name))


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


#: Given the time, these break whatever can be broken.
COMPLETE = {"bab-attack", "beam", "lns", "milp", "mip"}


def small(name: str) -> AttackOptions:
    if name in ENSEMBLES:
        return AttackOptions(steps=1, restarts=2)
    return AttackOptions() if name == "fgsm" else AttackOptions(steps=8, restarts=3)


@cache
def enumerated() -> tuple[Query, ...]:
    """A network of ReLUs and one of signs, around images whose margins are known.

    Each twice: its margins are moved until the least one is `MOVED`, once on each side of zero.
    """
    rng, queries = np.random.default_rng(20261), []
    for network in (random_mlp(rng, [3, 4, 3, 3]), random_sign(rng, [5, 4, 4, 3])):
        query = robustness(network, rng.uniform(0.3, 0.7, network.input_shape), 0, 0.25)
        least = min(least_clause_margin(query, k) for k in range(query.prop.clauses))
        for goal in (MOVED, -MOVED):
            offsets = query.prop.offsets + (goal - least)
            queries.append(replace(query, prop=replace(query.prop, offsets=offsets)))
    return tuple(queries)


#: Of the queries of enumerated networks, the least margin or minus it.
MOVED = 0.02


@pytest.mark.parametrize("name", [*METHODS, *ENSEMBLES, *QUERY_ATTACKS])
def test_none_is_below_the_optimum_and_complete_ones_break_what_they_can(name: str) -> None:
    attack, tried = make_attack(name, small(name)), 0
    seconds = 60.0 if name in COMPLETE else 2.0
    for query, least in zip(enumerated(), (MOVED, -MOVED) * 2, strict=True):
        network = compiled(query.network, torch.float32)
        try:
            (outcome,) = run_attack(network, [query], attack, Budget.of_seconds(seconds))
        except OptionError as refusal:
            assert "binarized networks only" in str(refusal)
            continue
        tried += 1
        assert len(outcome.points)
        assert all(contains(query.region, point) for point in outcome.points)
        assert outcome.margin >= least - 1e-4
        if name in COMPLETE:
            assert outcome.finished
            assert (outcome.margin < 0) == (least < 0)
            witness = replayer(query.network).witness(query, outcome.points[0])
            assert witness is not None and witness.breaks == (least < 0)
    assert tried


def test_an_unknown_attack_is_named_with_those_there_are() -> None:
    with pytest.raises(OptionError, match=r"'nonsense'.*pgd"):
        make_method("nonsense")
    with pytest.raises(OptionError, match=r"'nonsense'.*pgd.*bab-attack.*without a radius.*fmn"):
        make_attack("nonsense")


def test_a_step_size_is_refused_where_it_would_change_nothing() -> None:
    """An attack that keeps what it was given is another one under another step size."""
    for name in [*METHODS, *ENSEMBLES, *QUERY_ATTACKS]:
        try:
            chosen = make_attack(name, AttackOptions(step_size=0.0123))
        except OptionError as error:
            assert "leave the step size out" in str(error)
        else:
            assert "0.0123" in repr(getattr(chosen, "options", chosen))


def test_the_clean_check_is_about_the_image_not_the_middle_of_its_box() -> None:
    """A black image is right, grey ones are wrong: that is no misclassified image."""
    layer = torch.nn.Linear(4, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[-1.0] * 4, [1.0] * 4]))
        layer.bias.copy_(torch.tensor([0.2, 0.0]))
    network = from_torch(layer, torch.zeros(1, 4))
    data = DataSet(np.zeros((1, 4), np.float32), np.array([0]), np.array([0]), "black")
    (found,) = attack_data(network, data, Question(0.3), make_attack("fgsm"))
    assert found.record.engine == "fgsm"
    query = robustness(network, np.zeros(4), 0, 0.3)
    assert (query.reference == 0).all()
    assert (replace(query, center=None).reference == 0.15).all()
    ball = replace(robustness(network, np.full(4, 0.1), 0, 0.3, norm=2.0), center=None)
    assert (ball.reference == 0.1).all()


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


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_seeds_out_of_range_are_refused(seed: int) -> None:
    with pytest.raises(OptionError, match="a seed is a whole number"):
        Budget(seed=seed)


@pytest.mark.parametrize("name", ["lippa", "region-walk", "bab-attack"])
def test_an_attack_between_cells_says_where_there_are_none(
    rng: np.random.Generator, name: str
) -> None:
    network = random_sign(rng, [4, 6, 3])
    label = int(TorchNetwork(network)(torch.full((1, 4), 0.5)).argmax())
    query = robustness(network, np.full(4, 0.5), label, 1e-6)
    made = make_attack(name, AttackOptions(steps=2, restarts=2))
    (outcome,) = run_attack(compiled(network, torch.float32), [query], made, Budget())
    assert outcome.margin > 0
    assert "not piecewise linear" in outcome.notes[0]
