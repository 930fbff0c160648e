"""The store loses no box, and takes the worst first or the last."""

from __future__ import annotations

import numpy as np
import torch

from closegap.verify.box_store import Boxes, BoxStore


def numbered(numbers: np.ndarray, signs: int = 2) -> Boxes:
    """Boxes that carry their number everywhere; the bound is minus the number."""
    column = torch.as_tensor(numbers, dtype=torch.float64)[:, None]
    return Boxes(
        column.repeat(1, 3),
        column.repeat(1, 3) + 1,
        -column,
        torch.as_tensor(numbers % 3 - 1, dtype=torch.int8)[:, None].repeat(1, signs),
        torch.as_tensor(numbers, dtype=torch.int64),
    )


def agree(boxes: Boxes) -> list[int]:
    """The numbers, after a look at every field."""
    numbers = boxes.depth
    assert (boxes.lower == numbers[:, None]).all()
    assert (boxes.upper == numbers[:, None] + 1).all()
    assert (boxes.proved[:, 0] == -numbers).all()
    assert (boxes.signs == (numbers % 3 - 1)[:, None]).all()
    return [int(n) for n in numbers]


def test_nothing_is_lost_or_doubled(rng: np.random.Generator) -> None:
    for wide in (0, 50, 10_000):
        store, waiting, following = BoxStore(numbered(np.arange(1)), wide), set[int](), 0
        for _ in range(60):
            more = np.arange(following, following + rng.integers(0, 40))
            following += len(more)
            store.put(numbered(rng.permutation(more)))
            waiting |= set(more.tolist())
            taken = agree(store.take(int(rng.integers(0, 30))))
            assert len(set(taken)) == len(taken)
            assert set(taken) <= waiting
            waiting -= set(taken)
            assert set(agree(store.boxes)) == waiting
            assert len(store) == len(waiting)


def test_worst_first_while_there_are_few() -> None:
    store = BoxStore(numbered(np.arange(1)), 100)
    store.put(numbered(np.array([3, 9, 1, 7])))
    assert set(agree(store.take(2))) == {9, 7}
    assert set(agree(store.take(5))) == {3, 1}


def test_last_first_where_there_are_many() -> None:
    store = BoxStore(numbered(np.arange(1)), 3)
    store.put(numbered(np.array([3, 9, 1, 7])))
    assert set(agree(store.take(2))) == {1, 7}


def test_least_passes_over_what_is_proved() -> None:
    boxes = numbered(np.array([-2, 4, 1]))
    assert boxes.least.tolist() == [-4.0]
    assert numbered(np.array([-2])).least.tolist() == [np.inf]
    assert boxes.pick(torch.tensor([], dtype=torch.int64)).least.tolist() == [np.inf]
