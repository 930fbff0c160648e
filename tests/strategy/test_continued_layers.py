"""A query cut off inside the tree that bounds every layer again goes on as if nothing had been."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from test_continuation import CutOff, Interrupted, same

from closegap.core.budget import Budget
from closegap.core.verdict import Reason
from closegap.specs.property import Property
from closegap.specs.query import Query
from closegap.specs.region import Box
from closegap.store.snapshots import SnapshotFile
from closegap.strategy.continuation import question
from closegap.strategy.result import Result
from closegap.strategy.solve import solve
from closegap.testing import networks
from closegap.testing.enumeration import clause_margin
from closegap.verify.layered.search import LayeredOptions

ALONE, BOTH = ("clean", "crown", "layered"), ("clean", "crown", "layered", "bab")
NODES = 121


@pytest.fixture(scope="module")
def query() -> Query:
    """Two clauses that hold by so little that their tree is large."""
    rng = np.random.default_rng(3)
    net = networks.random_mlp(rng, [5, 20, 20, 2])
    prop = Property(np.eye(2), np.zeros(2), np.arange(2), True, ("first", "second"))
    asked = Query(net, Box(np.full(5, -1.0), np.full(5, 1.0)), prop)
    points = rng.uniform(-1, 1, size=(5000, 5))
    least = np.array([clause_margin(asked, clause, points).min() for clause in range(2)])
    return Query(net, asked.region, Property(prop.rows, 0.8 - least, prop.clause, True, prop.names))


def ask(
    query: Query,
    engines: tuple[str, ...],
    file: SnapshotFile | None = None,
    settings: dict[str, str] | None = None,
) -> Result:
    budget = Budget.of_seconds(300, nodes=NODES)
    return solve(query, engines=engines, budget=budget, snapshot=file, settings=settings)


@pytest.fixture(scope="module")
def whole(query: Query) -> dict[tuple[str, ...], Result]:
    return {engines: ask(query, engines) for engines in (ALONE, BOTH)}


def cut_off(query: Query, path: Path, after: int, engines: tuple[str, ...] = ALONE) -> SnapshotFile:
    with pytest.raises(CutOff):
        ask(query, engines, Interrupted(path, "key", after))
    return SnapshotFile(path, "key", seconds=0.0)


def size(file: SnapshotFile, engine: str) -> int:
    kept = file.load()
    assert kept is not None
    return len(kept.arrays.get(f"{engine}/state", ()))


@pytest.mark.parametrize("after", [1, 5])
def test_the_same_tree_as_without_a_break(
    query: Query, whole: dict[tuple[str, ...], Result], after: int, tmp_path: Path
) -> None:
    file = cut_off(query, tmp_path / "tree.npz", after)
    assert 1 < size(file, "layered") < NODES
    result = ask(query, ALONE, file)
    assert result.counts["resumed"] > 1
    assert result.reason is whole[ALONE].reason is Reason.NODES
    assert whole[ALONE].counts["nodes"] == NODES
    assert same(result, whole[ALONE])
    assert "anew" not in result.detail


def test_two_trees_that_take_turns_both_go_on(
    query: Query, whole: dict[tuple[str, ...], Result], tmp_path: Path
) -> None:
    steps = 1
    path = tmp_path / "tree.npz"
    while True:  # until the first tree is done and the other one has begun
        file = cut_off(query, path, steps, BOTH)
        if size(file, "bab"):
            break
        path.unlink()
        steps += 3
    assert size(file, "layered") == NODES
    again = cut_off(query, path, 1, BOTH)  # carried on by one that has not had its turn yet
    assert size(again, "layered") == NODES
    result = ask(query, BOTH, again)
    assert result.counts["resumed"] > NODES
    assert same(result, whole[BOTH])


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("known", "what is known of the tree's open nodes is damaged"),
        ("open", "an open node of the tree has no open clause"),
        ("noted", "the tree's open nodes are not those that wait"),
        ("unit", "the tree splits units that this problem has not"),
        ("state", "the tree's nodes do not add up"),
        ("form", "another form of the network"),
        ("asked", "another question, or of other settings"),
        ("scales", "the snapshot lacks|one of another problem"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(
    query: Query, whole: dict[tuple[str, ...], Result], name: str, word: str, tmp_path: Path
) -> None:
    file = cut_off(query, tmp_path / "tree.npz", 4)
    kept = file.load()
    assert kept is not None
    arrays = kept.arrays
    if name == "open":
        units = (arrays["layered/known"].shape[1] - 2 - 3 * 6) // 2
        arrays["layered/known"][0, 2 * units : 2 * units + 2] = 0.0
    elif name in ("noted", "scales"):
        arrays[f"layered/{name}"] = arrays[f"layered/{name}"][1:]
    elif name == "unit":
        arrays["layered/unit"][1:3] = 1000
    else:
        array = arrays[f"layered/{name}"]
        array[-1] = np.nan if name == "known" else array[-1] + 1
    if name == "scales":
        del arrays["layered/scales"]
    file.save(kept)
    result = ask(query, ALONE, file)
    assert any(part in result.detail for part in word.split("|")), result.detail
    assert "begins anew" in result.detail
    assert result.counts["resumed"] == 0
    assert same(result, whole[ALONE])


def test_a_tree_of_other_settings_is_refused(query: Query, tmp_path: Path) -> None:
    file = cut_off(query, tmp_path / "tree.npz", 3)
    result = ask(query, ALONE, file, {"layered.steps": "2"})
    assert "of other settings; the search begins anew" in result.detail
    assert same(result, ask(query, ALONE, None, {"layered.steps": "2"}))


def test_the_digest_of_a_question_tells_all_of_it_apart(query: Query) -> None:
    box, prop = query.region, query.prop
    assert isinstance(box, Box)
    moved = Property(prop.rows, prop.offsets + 1e-12, prop.clause, True, prop.names)
    other = networks.random_mlp(np.random.default_rng(4), [5, 20, 20, 2])
    asked = [
        (query, LayeredOptions()),
        (query, LayeredOptions(steps=9)),
        (Query(query.network, Box(box.lower, box.upper - 1e-12), prop), LayeredOptions()),
        (Query(query.network, box, moved), LayeredOptions()),
        (Query(other, box, prop), LayeredOptions()),
    ]
    digests = [question(*each).tobytes() for each in asked]
    assert len(set(digests)) == len(asked)
    assert question(query, LayeredOptions()).tobytes() == digests[0]
