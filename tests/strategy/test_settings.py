"""Settings by key: every one can be set, and what cannot be used is said in one line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

import closegap as cg
from closegap.branching import FILTERS, SCORERS
from closegap.core.errors import OptionError
from closegap.strategy.engines import ENGINES
from closegap.strategy.engines.bab import BranchEngine
from closegap.strategy.settings import build_engine, known_keys, parse_settings

DEMO = Path(cg.__file__).parent / "demo" / "digits_mlp.onnx"


def test_an_engine_is_built_with_its_settings() -> None:
    texts = ["bab.batch=128", " bab.children.decay = 0.5 ", "bab.nodes=none", "bab.branching=fsb"]
    texts.append("bab.learning.after=64")
    settings = parse_settings([*texts, "bab.branching.guided=yes", "mip.solver=highs"])
    engine = build_engine("bab", settings)
    assert isinstance(engine, BranchEngine)
    options = engine.options
    assert (options.batch, options.nodes, options.children.decay) == (128, None, 0.5)
    assert (options.branching.name, options.branching.guided) == ("fsb", True)
    assert options.learning.after == 64
    assert options.root == BranchEngine().options.root
    assert build_engine("crown", settings) == ENGINES["crown"]()


@pytest.mark.parametrize("name", (*SCORERS, *FILTERS))
def test_every_branching_can_be_named(name: str) -> None:
    engine = build_engine("bab", parse_settings([f"bab.branching={name}"]))
    assert isinstance(engine, BranchEngine)
    assert engine.options.branching.name == name


def test_every_key_names_one_field() -> None:
    known = known_keys()
    assert len(set(known)) == len(known)
    assert {"bab.batch", "bab.branching", "bab.branching.count", "mip.solver"} <= set(known)
    assert not {"bab.options", "bab.branching.name"} & set(known)


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["bab.batch"], "no setting"),
        (["bab.bach=3"], "unknown setting 'bab.bach'; known: bab.batch"),
        (["beb.batch=3"], "unknown setting 'beb.batch'"),
        (["bab=3"], "unknown setting 'bab'"),
        (["bab.batch=3", "bab.batch=4"], "set twice"),
        (["bab.batch=many"], "whole number"),
        (["bab.batch=-3"], "whole number"),
        (["bab.batch=0"], "bab.batch: the batch must be positive"),
        (["cut-roots.climb.first=0"], "cut-roots.climb.first: first must be positive"),
        (["cut-roots.climb.share=1"], "cut-roots.climb.share: share must lie between 0 and 1"),
        (["bab.children.decay=nan"], "finite"),
        (["bab.branching=best"], "unknown branching 'best'; known: babsr"),
        (["bab.branching.guided=maybe"], "yes or no"),
        (["mip.emphasis=heavy"], "one of light"),
        (["alpha-crown.final.decay=2"], "alpha-crown.final.decay: steps decay by a factor"),
        (["bab-attack.hopping.restarts=0"], "bab-attack.hopping.restarts: hopping needs a lane"),
        (["attack.method=guess"], "attack.method: no attack is called 'guess'"),
        (["bab.nodes=few"], "or none"),
    ],
)
def test_mistakes_are_told(texts: list[str], words: str) -> None:
    with pytest.raises(OptionError, match=words) as caught:
        parse_settings(texts)
    assert "\n" not in str(caught.value)


def test_solve_uses_them(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    @dataclass(frozen=True)
    class Plain:
        depth: int = 3
        names: tuple[str, ...] = field(default=())

        def run(self, session: object, budget: object) -> None:
            seen.append(self.depth)

    make: Callable[[], Plain] = Plain
    monkeypatch.setitem(ENGINES, "plain", make)
    network = cg.load(DEMO)
    query = cg.robustness(network, np.full(network.input_shape, 0.5), 0, eps=0.0)
    cg.solve(query, engines=["plain"], settings={"plain.depth": "5"})
    cg.solve(query, engines=["plain"])
    assert seen == [5, 3]
    with pytest.raises(OptionError, match=r"plain\.depth"):
        cg.solve(query, engines=["plain"], settings={"plain.names": "a"})


def test_an_attack_is_an_engine_by_its_name() -> None:
    network = cg.load(DEMO)
    query = cg.robustness(network, np.full(network.input_shape, 0.5), 0, 0.5)
    settings = {"attack.method": "apgd-t"}
    result = cg.solve(query, engines=["attack"], settings=settings)
    assert result.verdict == "falsified"
    assert result.bracket.witness is not None
