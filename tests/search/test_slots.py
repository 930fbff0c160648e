"""Payloads come back as they went in, until the memory limit; whole numbers are kept exactly."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from closegap.search.slots import SlotStore


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_agrees_with_a_dictionary(data: st.DataObject) -> None:
    width = data.draw(st.integers(0, 4))
    store, model = SlotStore(width), {}
    fresh = 0
    for _ in range(data.draw(st.integers(1, 15))):
        if data.draw(st.booleans()):
            nodes = np.arange(fresh, fresh + data.draw(st.integers(0, 90)))
            fresh += len(nodes) + data.draw(st.integers(0, 2000))
            payload = np.arange(len(nodes) * width).reshape(len(nodes), width) % 500 + 0.25
            store.put(nodes, payload)
            model |= dict(zip(nodes.tolist(), payload.tolist(), strict=True))
        elif fresh:
            nodes = np.array(
                data.draw(st.lists(st.integers(0, fresh), max_size=8, unique=True)), np.int64
            )
            payload, found = store.take(nodes)
            for node, row, there in zip(nodes.tolist(), payload, found, strict=True):
                assert there == (node in model)
                assert row.tolist() == model.pop(node, [0.0] * width)


def test_a_full_store_forgets_new_payloads_only() -> None:
    store = SlotStore(2, memory=4 * 100)
    nodes = np.arange(300)
    store.put(nodes, np.repeat(nodes[:, None], 2, axis=1).astype(float))
    payload, found = store.take(nodes)
    assert found.sum() == 100
    assert found[:100].all()
    assert (payload[:100, 0] == nodes[:100]).all()
    assert (payload[100:] == 0).all()
    store.put(nodes[:100] + 300, np.ones((100, 2)))
    assert store.take(nodes[:100] + 300)[1].all()


def test_whole_numbers_are_exact() -> None:
    store = SlotStore(3, dtype=np.int32)
    numbers = np.array([[2049, 70001, 2**31 - 1], [0, -5, 4097]])
    store.put(np.array([7, 3]), numbers)
    payload, _ = store.take(np.array([3, 7]))
    assert payload.tolist() == numbers[::-1].tolist()


def test_half_precision_clips_instead_of_overflowing() -> None:
    store = SlotStore(1)
    store.put(np.array([0, 1]), np.array([[1e9], [-1e9]]))
    payload, _ = store.take(np.array([0, 1]))
    assert np.isfinite(payload).all()
    assert payload[0, 0] > 6e4
    store.drop(np.array([0]))
    assert not store.take(np.array([0]))[1].any()
