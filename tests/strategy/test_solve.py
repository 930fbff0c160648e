"""`solve` against enumeration, and what it does when something goes wrong."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

import closegap as cg
from closegap.core.budget import Budget
from closegap.core.errors import OptionError, SolverError, SoundnessError
from closegap.core.verdict import Reason, Verdict
from closegap.frontend import loads
from closegap.graph.network import Network
from closegap.runtime.torch_network import TorchNetwork
from closegap.specs.property import Property
from closegap.specs.query import Query, robustness
from closegap.specs.region import contains, lp_ball
from closegap.strategy import solve as solve_module
from closegap.strategy.engines import ENGINES, Engine
from closegap.strategy.engines.bab import BranchEngine
from closegap.strategy.failures import EngineWarning
from closegap.strategy.session import Session
from closegap.strategy.solve import solve
from closegap.testing import networks
from closegap.testing.enumeration import least_clause_margin
from closegap.verify.bab.leaves import LeafPrograms, LeafResult

Make = Callable[[np.random.Generator], Network]

KINDS: dict[str, Make] = {
    "dense": lambda rng: networks.random_mlp(rng, [2, 5, 4, 3]),
    "leaky": lambda rng: networks.random_leaky(rng, [2, 4, 3, 3]),
    "conv": lambda rng: networks.random_conv(rng, side=3),
    "residual": lambda rng: networks.random_residual(rng, side=2),
    "maxpool": networks.random_pooled,
}
PROOFS = ("crown", "bab")


def queries(
    rng: np.random.Generator, kind: str, gaps: tuple[float, ...], norm: float = math.inf
) -> Iterator[tuple[Query, float]]:
    """Queries with a least margin of each gap; two clauses, the second of two rows."""
    network = KINDS[kind](rng)
    prop = Property(
        rows=rng.normal(size=(3, 3)),
        offsets=np.zeros(3),
        clause=np.array([0, 1, 1]),
        strict=True,
        names=("one", "two"),
    )
    center = rng.uniform(0.3, 0.7, network.input_shape).astype(np.float32)
    radius = 0.15 if norm == math.inf else 0.25
    query = Query(network, lp_ball(center, radius, norm=norm), prop, center=center)
    least = min(least_clause_margin(query, clause) for clause in range(2))
    for gap in gaps:
        offsets = np.full(3, gap - least)
        yield replace(query, prop=replace(prop, offsets=offsets)), gap


@pytest.mark.parametrize("norm", [math.inf, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_verdicts_agree_with_enumeration(kind: str, norm: float, rng: np.random.Generator) -> None:
    everything = solve_module.DEFAULT_ENGINES
    for engines, gaps in ((PROOFS, (3e-3, 0.1, -3e-3, -0.1)), (everything, (0.01, -3e-3))):
        for query, gap in queries(rng, kind, gaps, norm):
            result = solve(query, timeout=8, engines=engines)
            expected = Verdict.VERIFIED if gap > 0 else Verdict.FALSIFIED
            assert result.verdict is expected, (engines, gap, result.detail)
            assert result.bracket.lower <= gap or gap > 0
            check_witness(query, result, gap)


def check_witness(query: Query, result, least: float) -> None:
    witness = result.witness
    if witness is None:
        assert result.verdict is not Verdict.FALSIFIED
        return
    assert contains(query.region, witness.input)
    assert witness.breaks == (result.verdict is Verdict.FALSIFIED)
    network = query.network
    again = loads(network.onnx_bytes, "again")
    outputs = TorchNetwork(again, dtype=torch.float64)(
        torch.as_tensor(witness.input[None]).double()
    )
    margin = float(query.prop.margins(outputs.double().numpy())[0])
    assert margin == pytest.approx(witness.margin_float64, abs=1e-9)
    assert margin >= least - 1e-7


@pytest.mark.parametrize("kind", ["dense", "maxpool"])
def test_a_tree_over_hinges_has_all_the_time(kind: str, rng: np.random.Generator) -> None:
    query, _ = next(queries(rng, kind, (0.01,)))
    session = Session(query)
    BranchEngine(smooth_share=0.0).run(session, Budget.of_seconds(30))
    assert session.decided


def test_leaves_that_nothing_proves_are_a_reason(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(_: LeafPrograms, root: np.ndarray, *__: object) -> LeafResult:
        none = np.zeros((0, *query.network.input_shape))
        return LeafResult(np.full(len(root), -np.inf), none, np.ones(len(root), bool))

    monkeypatch.setattr(LeafPrograms, "solve", silent)
    query = next(queries(rng, "dense", (-1e-9,)))[0]  # broken by less than is looked for here
    monkeypatch.setattr(Session, "offer", lambda *_: False)
    result = solve(query, timeout=30, engines=("bab",))
    assert result.counts["stuck"] > 0 and result.counts["open"] == 0
    assert (result.verdict, result.reason) == (Verdict.UNKNOWN, Reason.INCOMPLETE)
    assert "nothing left to split" in result.detail


@pytest.mark.parametrize("kind", ["dense", "conv"])
def test_verdicts_are_monotone_in_the_radius(kind: str, rng: np.random.Generator) -> None:
    network = KINDS[kind](rng)
    image = rng.uniform(0.3, 0.7, network.input_shape).astype(np.float32)
    label = label_of(network, image)
    radii = (0.0, 0.01, 0.03, 0.1, 0.2, 0.3, 0.5)
    verdicts = [solve(robustness(network, image, label, r), timeout=20).verdict for r in radii]
    assert Verdict.UNKNOWN not in verdicts
    assert verdicts == sorted(verdicts, key=[Verdict.VERIFIED, Verdict.FALSIFIED].index)
    assert verdicts[0] is Verdict.VERIFIED


def label_of(network: Network, image: np.ndarray) -> int:
    outputs = TorchNetwork(network, dtype=torch.float64)(torch.as_tensor(image[None]).double())
    return int(outputs.argmax())


def test_a_misclassified_image_falsifies_itself(rng: np.random.Generator) -> None:
    network = KINDS["dense"](rng)
    image = rng.uniform(0.3, 0.7, 2).astype(np.float32)
    wrong = (label_of(network, image) + 1) % 3
    for radius in (0.0, 0.1):
        result = solve(robustness(network, image, wrong, radius))
        assert result.verdict is Verdict.FALSIFIED
        assert result.engine == "clean"
        assert (result.witness.input == image).all()


@pytest.mark.parametrize("engines", [("crown",), ("alpha-crown",), ("bab",), ("input-split",)])
@pytest.mark.parametrize("radius", [0.0, 0.1])
def test_weights_that_are_not_numbers_prove_nothing(
    engines: tuple[str, ...], radius: float, rng: np.random.Generator
) -> None:
    network = KINDS["dense"](rng)
    poisoned = False
    for node in network.nodes:
        weight = getattr(node.op, "weight", None)
        if weight is not None and not poisoned:
            weight.setflags(write=True)
            weight[0, 0] = np.nan
            poisoned = True
    assert poisoned
    image = np.full(2, 0.5, np.float32)
    result = solve(robustness(network, image, 0, radius), timeout=3, engines=engines)
    assert result.verdict is not Verdict.VERIFIED
    assert not result.bracket.lower > 0


@pytest.fixture
def query(rng: np.random.Generator) -> Query:
    """A query that is true by 0.05, so that CROWN alone may not do."""
    return next(queries(rng, "dense", (0.05,)))[0]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Callable[[Session], None]], None]:
    """Add an engine by the function it runs."""

    def add(name: str, work: Callable[[Session], None]) -> None:
        class Scripted:
            def run(self, session: Session, budget: Budget) -> None:
                work(session)

        monkeypatch.setitem(ENGINES, name, Scripted)

    return add


def raiser(error: Exception) -> Callable[[Session], None]:
    def work(session: Session) -> None:
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "reason", "words"),
    [
        (SolverError("it fell over"), Reason.ENGINE_FAILED, "broken failed: it fell over"),
        (MemoryError(), Reason.MEMORY, "broken ran out of memory"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes"),
            Reason.MEMORY,
            "broken ran out of memory",
        ),
        (torch.OutOfMemoryError("CUDA out of memory."), Reason.MEMORY, "ran out of memory"),
    ],
)
def test_a_failed_engine_is_noted_and_the_next_one_runs(
    query: Query, install, error: Exception, reason: Reason, words: str
) -> None:
    install("broken", raiser(error))
    alone = solve(query, engines=["broken"])
    assert alone.verdict is Verdict.UNKNOWN
    assert alone.reason is reason
    assert words in alone.detail
    both = solve(query, engines=["broken", *PROOFS])
    assert both.verdict is Verdict.VERIFIED
    assert words in both.detail
    assert both.reason is None


def test_a_bug_is_said_aloud_and_loses_nothing(query: Query, install) -> None:
    install("buggy", raiser(IndexError("index 7\nis out of bounds")))
    with pytest.warns(EngineWarning, match="buggy failed unexpectedly: IndexError: index 7$"):
        result = solve(query, engines=["buggy", *PROOFS])
    assert result.verdict is Verdict.VERIFIED
    with pytest.warns(EngineWarning):
        alone = solve(query, engines=["buggy"])
    assert alone.reason is Reason.ENGINE_FAILED
    assert "index 7" in alone.detail

    def prove_then_fail(session: Session) -> None:
        for clause in range(2):
            session.prove_clause(clause, 0.01, "late")
        raise KeyError("too late")

    install("late", prove_then_fail)
    with pytest.warns(EngineWarning, match="KeyError"):
        assert solve(query, engines=["late"]).verdict is Verdict.VERIFIED


def test_an_engine_that_cannot_be_loaded_loses_nothing(
    query: Query, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unloadable() -> Engine:
        raise ImportError("libbroken.so: cannot open shared object file")

    monkeypatch.setitem(ENGINES, "absent", unloadable)
    with pytest.warns(EngineWarning, match=r"absent failed unexpectedly: ImportError: libbroken"):
        result = solve(query, engines=["absent", *PROOFS])
    assert result.verdict is Verdict.VERIFIED


def test_a_contradiction_is_never_a_verdict(rng: np.random.Generator, install) -> None:
    broken = next(queries(rng, "dense", (-0.1,)))[0]

    def swear(session: Session) -> None:
        for clause in range(2):
            session.prove_clause(clause, 1.0, "perjurer")

    def both(session: Session) -> None:
        solve_module.ENGINES["crown"]().run(session, Budget())
        box = session.query.region
        grid = np.stack(np.meshgrid(*[np.linspace(0, 1, 60)] * 2), -1).reshape(-1, 2)
        session.offer(box.lower + grid * (box.upper - box.lower), "grid")
        swear(session)

    install("both", both)
    with pytest.raises(SoundnessError, match="no verdict is given"):
        solve(broken, engines=["both"])


def test_nan_bounds_are_never_stored(query: Query, install) -> None:
    def nothing(session: Session) -> None:
        session.prove_clause(0, math.nan, "nan")
        session.prove_clause(1, math.nan, "nan")
        session.prove_rows(np.arange(3), np.full(3, math.nan), "nan")

    install("nan", nothing)
    result = solve(query, engines=["nan"])
    assert result.verdict is Verdict.UNKNOWN
    assert result.bracket.lower == -math.inf


def test_no_time_at_all(query: Query) -> None:
    for arguments in ({"timeout": 0.0}, {"budget": Budget.of_seconds(-5)}):
        result = solve(query, **arguments)
        assert result.verdict is Verdict.UNKNOWN
        assert result.reason is Reason.TIME
        assert "--timeout" in result.detail
        assert result.engine_seconds == {}


@pytest.mark.parametrize("engine", [name for name in ENGINES if name != "clean"])
def test_every_engine_keeps_an_expired_budget(engine: str, query: Query) -> None:
    session = Session(query)
    begun = time.monotonic()
    ENGINES[engine]().run(session, Budget.of_seconds(-1))
    assert time.monotonic() - begun < 5
    assert session.bracket.verdict is not Verdict.FALSIFIED


@pytest.mark.parametrize("timeout", [-1.0, math.nan])
def test_bad_timeouts(query: Query, timeout: float) -> None:
    with pytest.raises(OptionError, match="timeout"):
        solve(query, timeout=timeout)


def test_unknown_engines_are_named(query: Query) -> None:
    with pytest.raises(OptionError, match="unknown engine 'crwn'; known engines: clean, pgd"):
        solve(query, engines=["crown", "crwn"])
    with pytest.raises(OptionError, match="no engine given"):
        solve(query, engines=[])


def test_the_deadline_is_kept_on_a_real_network(data_path) -> None:
    network = cg.load(data_path("models/bab_attack/B_mnist_cnn_a_adv.onnx"))
    rng = np.random.default_rng(3)
    image = rng.uniform(0.2, 0.8, network.input_shape).astype(np.float32)
    query = robustness(network, image, label_of(network, image), 0.3)
    solve(query, timeout=1, engines=["clean"])  # compile outside the clock
    for engines in (("crown", "alpha-crown", "bab", "mip"), ("crown", "bab")):
        begun = time.monotonic()
        result = solve(query, timeout=3, engines=engines)
        assert time.monotonic() - begun < 4
        assert result.verdict is not Verdict.UNKNOWN or result.reason is Reason.TIME


@pytest.mark.parametrize(
    ("kind", "norm", "engines", "first"),
    [
        ("dense", math.inf, solve_module.DEFAULT_ENGINES, True),
        ("dense", math.inf, ("crown", "input-split"), False),
        ("dense", 1, solve_module.DEFAULT_ENGINES, False),
        ("conv", math.inf, solve_module.DEFAULT_ENGINES, False),
    ],
)
def test_boxes_go_before_crown_where_they_suit(
    kind: str, norm: float, engines: tuple[str, ...], first: bool, rng: np.random.Generator
) -> None:
    query, _ = next(queries(rng, kind, (0.1,), norm))
    ran = list(solve(query, timeout=8, engines=engines).engine_seconds)
    proofs = [name for name in ran if name in ("crown", "input-split")]
    assert (proofs[0] == "input-split") is first
