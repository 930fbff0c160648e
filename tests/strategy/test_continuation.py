"""A query cut off inside a tree: what is kept, what is refused, and that nothing changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from closegap.core.budget import Budget
from closegap.core.verdict import Reason
from closegap.encode.reduced import ReducedNetwork, reduce_network
from closegap.graph import ops
from closegap.graph.network import Node
from closegap.specs.property import Property
from closegap.specs.query import Query
from closegap.specs.region import Box
from closegap.store.snapshots import Snapshot, SnapshotFile
from closegap.strategy import sequence
from closegap.strategy.continuation import bring_back
from closegap.strategy.engines.bab import BranchEngine
from closegap.strategy.result import Result
from closegap.strategy.session import Session
from closegap.strategy.shelf import Shelf
from closegap.strategy.solve import solve
from closegap.testing import networks
from closegap.testing.enumeration import clause_margin

ENGINES = ("clean", "crown", "bab")
NODES = 400


class CutOff(BaseException):
    """As a kill would: nothing catches it."""


class Interrupted(SnapshotFile):
    """Keeps a snapshot at every step, and is cut off after some."""

    def __init__(self, path: Path, key: str, after: int) -> None:
        super().__init__(path, key, seconds=0.0)
        self.left = after

    def save(self, snapshot: Snapshot) -> None:
        super().save(snapshot)
        self.left -= 1
        if not self.left:
            raise CutOff


@pytest.fixture(scope="module")
def query() -> Query:
    """Two clauses that hold by so little that their trees are large."""
    rng = np.random.default_rng(3)
    net = networks.random_mlp(rng, [5, 20, 20, 2])
    rows = np.eye(2)
    prop = Property(rows, np.zeros(2), np.arange(2), True, ("first", "second"))
    asked = Query(net, Box(np.full(5, -1.0), np.full(5, 1.0)), prop)
    points = rng.uniform(-1, 1, size=(5000, 5))
    least = np.array([clause_margin(asked, clause, points).min() for clause in range(2)])
    return Query(net, asked.region, Property(rows, 0.8 - least, np.arange(2), True, prop.names))


def ask(query: Query, file: SnapshotFile | None, nodes: int = NODES) -> Result:
    budget = Budget.of_seconds(60, nodes=nodes)
    return solve(query, engines=ENGINES, budget=budget, snapshot=file)


@pytest.fixture(scope="module")
def whole(query: Query) -> Result:
    return ask(query, None)


def cut_off(query: Query, path: Path, after: int = 2) -> None:
    with pytest.raises(CutOff):
        ask(query, Interrupted(path, "key", after))


def same(one: Result, other: Result) -> bool:
    counts = [{k: v for k, v in r.counts.items() if k != "resumed"} for r in (one, other)]
    bounds = (one.clause_lower == other.clause_lower).all()
    return bool(bounds) and counts[0] == counts[1] and one.verdict is other.verdict


@pytest.mark.parametrize("after", [1, 3])
def test_the_same_tree_as_without_a_break(
    query: Query, whole: Result, after: int, tmp_path: Path
) -> None:
    path = tmp_path / "tree.npz"
    cut_off(query, path, after)
    result = ask(query, SnapshotFile(path, "key"))
    assert 0 < result.counts["resumed"] < whole.counts["nodes"]
    assert same(result, whole)
    assert result.reason is whole.reason is Reason.NODES
    assert set(result.part_seconds) >= {"bab.bounds", "bab.branching"}
    assert [e.engine for e in result.history] == [e.engine for e in whole.history]


@pytest.mark.parametrize("kind", ["images", "dense"])
def test_turns_go_on_where_they_were_cut_off(
    query: Query, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, turns, run = tmp_path / "tree.npz", [], sequence._run

    def noted(
        name: str, settings: Mapping[str, str], session: Session, budget: Budget
    ) -> Reason | None:
        turns.append((name, budget.remaining))
        return None if name == "layered" else run(name, settings, session, budget)

    monkeypatch.setattr("closegap.strategy.sequence._run", noted)
    monkeypatch.setattr("closegap.strategy.turns._suits_cuts", lambda session: False)
    monkeypatch.setattr("closegap.strategy.engines.cutoff.CutoffEngine.run", lambda *_: None)
    if kind == "images":
        monkeypatch.setattr("closegap.strategy.turns._of_images", lambda session: True)
    engines = ("crown", *(["cutoff"] if kind == "images" else ["layered"]), "bab")

    def asked(file: SnapshotFile | None) -> list[tuple[str, float]]:
        turns.clear()
        budget = Budget.of_seconds(60, nodes=NODES)
        solve(query, engines=engines, budget=budget, snapshot=file)
        return list(turns)

    whole = asked(None)
    with pytest.raises(CutOff):
        asked(Interrupted(path, "key", 1))
    before = len(turns) - 1
    file = SnapshotFile(path, "key")
    kept = file.load()
    assert kept is not None
    kept.facts["seconds"] = kept.facts["turn_began"] + 0.1
    file.save(kept)
    again = asked(SnapshotFile(path, "key"))
    assert whole[before][0] == "bab"
    assert [name for name, _ in again] == [name for name, _ in whole[before:]]
    assert again[0][1] == pytest.approx(whole[before][1] - 0.1, abs=0.1)


def test_time_spent_before_counts(query: Query, tmp_path: Path) -> None:
    path = tmp_path / "tree.npz"
    cut_off(query, path)
    kept = SnapshotFile(path, "key").load()
    assert kept is not None
    kept.facts["seconds"] = 100.0
    SnapshotFile(path, "key").save(kept)
    result = ask(query, SnapshotFile(path, "key"))
    assert result.reason is Reason.TIME
    assert result.seconds > 100


def test_the_parts_of_the_time_are_kept(query: Query, tmp_path: Path) -> None:
    path = tmp_path / "tree.npz"
    cut_off(query, path)
    file = SnapshotFile(path, "key", seconds=0.0)
    kept = file.load()
    assert kept is not None
    assert kept.arrays["bab/seconds"][0] > 0
    kept.arrays["bab/seconds"][:] = 70.0
    kept.facts["part_seconds"] = {"other.part": 3.0}
    file.save(kept)
    result = ask(query, SnapshotFile(path, "key"))
    assert result.part_seconds["other.part"] == 3.0
    assert all(70 < result.part_seconds[f"bab.{part}"] < 90 for part in ("bounds", "branching"))


def damaged(path: Path) -> SnapshotFile:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    return SnapshotFile(path, "key")


def truncated(path: Path) -> SnapshotFile:
    path.write_bytes(path.read_bytes()[:-200])
    return SnapshotFile(path, "key")


def foreign(path: Path) -> SnapshotFile:
    return SnapshotFile(path, "another key")


def lost_a_node(path: Path) -> SnapshotFile:
    file = SnapshotFile(path, "key")
    kept = file.load()
    assert kept is not None
    kept.arrays["bab/state"][-1] = 1
    file.save(kept)
    return file


def other_units(path: Path) -> SnapshotFile:
    file = SnapshotFile(path, "key")
    kept = file.load()
    assert kept is not None
    kept.arrays["bab/root_starts"] = kept.arrays["bab/root_starts"][:, 2:]
    file.save(kept)
    return file


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (damaged, "it is damaged"),
        (truncated, "it is damaged"),
        (foreign, "it is of another query"),
        (lost_a_node, "the tree's nodes do not add up"),
        (other_units, "the tree is one of another problem"),
    ],
)
def test_what_is_not_ours_is_refused_in_words(
    query: Query, whole: Result, change: object, word: str, tmp_path: Path
) -> None:
    path = tmp_path / "tree.npz"
    cut_off(query, path)
    assert callable(change)
    result = ask(query, change(path))
    assert result.detail.count(word) == 1
    assert "begins anew" in result.detail
    assert result.counts["resumed"] == 0
    assert same(result, whole)


def composed(*args: Any, **_: object) -> ReducedNetwork | None:
    return reduce_network(*args, worth=None)


def test_a_tree_of_a_composed_network_is_not_continued_on_the_whole_one(
    query: Query, whole: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tree.npz"
    with monkeypatch.context() as patch:
        patch.setattr("closegap.verify.bab.problem.condensed", composed)
        cut_off(query, path)
    result = ask(query, SnapshotFile(path, "key"))
    assert "another form of the network; the search begins anew" in result.detail
    assert result.counts["resumed"] == 0
    assert same(result, whole)


def test_bounds_of_a_rewritten_network_are_not_taken_for_the_networks_own(
    query: Query, tmp_path: Path
) -> None:
    """A maximum over one entry becomes no ReLU, so both networks have as many nodes."""
    dense = query.network.nodes[1:]
    nodes = [
        Node(ops.Input(), (), (5,)),
        Node(ops.Reshape(), (0,), (5, 1)),
        Node(ops.Max(), (1,), (5,)),
        *(replace(node, inputs=(place,)) for place, node in enumerate(dense, start=2)),
    ]
    pooled = replace(query.network, nodes=tuple(nodes))
    asked = Query(pooled, query.region, query.prop)
    path, budget = tmp_path / "tree.npz", Budget(nodes=50)
    with pytest.raises(CutOff):
        solve(asked, engines=ENGINES, budget=budget, snapshot=Interrupted(path, "key", 1))
    session = Session(asked, Shelf(SnapshotFile(path, "key")))
    bring_back(session)
    assert session.bounds is None
    BranchEngine().run(session, budget)
    assert session.counts["resumed"] > 0
    assert not session.shelf.refusal


def test_a_snapshot_that_cannot_be_written_is_a_note(query: Query, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    file = SnapshotFile(tmp_path / "file" / "tree.npz", "key", seconds=0.0)
    result = ask(query, file, 100)
    assert "cannot be" in result.detail
    assert result.counts["nodes"] >= 100
