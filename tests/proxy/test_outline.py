"""Outlines: counts of what a JSON value holds, whatever its strings look like."""

from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from meterproxy.proxy.outline import Outline, outline

VALUES = st.recursive(
    st.none() | st.integers(-5, 5) | st.text('"\\\\[{,}]a\u00e9\n', max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text('"\\\\{,', max_size=3), inner, max_size=4),
    max_leaves=20,
)


def counted(value: Any) -> tuple[int, ...]:
    """Strings, lists, objects and separators of the built value."""
    if isinstance(value, str):
        return (1, 0, 0, 0)
    if not isinstance(value, (list, dict)):
        return (0, 0, 0, 0)
    inner = [*value, *value.values()] if isinstance(value, dict) else value
    own = (0, isinstance(value, list), isinstance(value, dict), max(len(value) - 1, 0))
    return tuple(sum(counts) for counts in zip(own, *map(counted, inner), strict=True))


@given(VALUES)
def test_counts(value: Any) -> None:
    """What is counted in the bytes is what is there."""
    strings, outside = outline(orjson.dumps(value), 1000)
    assert (strings, outside.count(b"["), outside.count(b"{"), outside.count(b",")) == counted(value)


def test_too_many_strings() -> None:
    """Beyond the maximum of strings nothing else is looked for."""
    assert outline(b'["a","b","c"]', 2) == Outline(3)
