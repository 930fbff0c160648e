"""Keys: equal for the same question, different for any other."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from closegap.store import query_key

_values = st.none() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
_maps = st.dictionaries(st.text(max_size=4), _values, max_size=3)


@given(model=st.text(max_size=5), inputs=st.binary(max_size=5), query=_maps, options=_maps)
def test_key_depends_on_every_part_and_on_no_order(
    model: str, inputs: bytes, query: dict[str, object], options: dict[str, object]
) -> None:
    key = query_key(model=model, inputs=inputs, query=query, settings=options)
    swapped = dict(reversed(query.items()))
    assert key == query_key(model=model, inputs=inputs, query=swapped, settings=options)
    others = {
        query_key(model=model + "x", inputs=inputs, query=query, settings=options),
        query_key(model=model, inputs=inputs + b"x", query=query, settings=options),
        query_key(model=model, inputs=inputs, query={**query, "another": 1}, settings=options),
        query_key(model=model, inputs=inputs, query=query, settings={**options, "another": 1}),
    }
    assert len(others | {key}) == 5


def test_parts_do_not_run_together() -> None:
    one = query_key(model="ab", inputs=b"c", query={}, settings={})
    assert one != query_key(model="a", inputs=b"bc", query={}, settings={})


def test_numbers_that_are_no_json_are_refused() -> None:
    with pytest.raises(ValueError):
        query_key(model="", inputs=b"", query={"eps": float("nan")}, settings={})
