"""Mentions: which ids a body names, wherever they stand."""

from importlib import import_module
from typing import Any, get_args, get_type_hints

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meterproxy.core.resource import FILE
from meterproxy.errors import ApiError, Case
from meterproxy.proxy.body import scan
from meterproxy.proxy.mentions import (
    CHAT_MARKS,
    MARKS,
    NAMES,
    OWN_NAMES,
    WALK_STEP,
    Mention,
    may_mention,
    mentioning,
    mentions_of,
)

REQUESTS = """
responses.response_create_params.ResponseCreateParamsNonStreaming
responses.response_compact_params.ResponseCompactParams
responses.input_token_count_params.InputTokenCountParams
conversations.conversation_create_params.ConversationCreateParams
conversations.item_create_params.ItemCreateParams
chat.completion_create_params.CompletionCreateParamsNonStreaming
"""

HARMLESS = {
    "id": "of items, mentioned as such, or within an object whose own name says what it is",
    "call_id": "names a call within what is sent",
    "caller_id": "names a program within what is sent",
    "tool_call_id": "names a call within what is sent",
    "connector_id": "one of a few names that OpenAI has for services; the client brings its own authorization",
    "continuation_id": "an opaque name of the client's own",
}
"""Names that look like an id's and mention nothing of a provider's, with the reason."""


def names_in(request: str) -> set[str]:
    """The names of all members, at any depth, that OpenAI's SDK types for a request."""
    module, _, params = request.rpartition(".")
    pending: list[Any] = [getattr(import_module(f"openai.types.{module}"), params)]
    seen: set[Any] = set()
    names: set[str] = set()
    while pending:
        kind = pending.pop()
        if isinstance(kind, type) and hasattr(kind, "__total__") and hasattr(kind, "__annotations__"):
            if kind not in seen:
                seen.add(kind)
                hints = get_type_hints(kind)
                names |= hints.keys()
                pending += hints.values()
        else:
            pending += get_args(kind)
    return names


@pytest.mark.parametrize("request_type", REQUESTS.split())
def test_every_name_of_an_id_was_judged(request_type: str) -> None:
    """A member that OpenAI adds to its API with the name of an id fails here until somebody has said what it is."""
    ids = {name for name in names_in(request_type) if name.endswith(("_id", "_ids")) or name == "id"}
    assert ids <= NAMES.keys() | HARMLESS.keys()


def test_every_name_has_a_mark() -> None:
    """No mention is missed because its bytes have no mark."""
    for name in NAMES:
        assert may_mention(b'{"%b":' % name.encode(), MARKS), name
    assert may_mention(b'{"type":"item_reference","id":"x"}', MARKS)
    assert may_mention(b'{"file_id":"x"}', CHAT_MARKS)
    assert may_mention(b'{"audio":{"id":"x"}}', CHAT_MARKS)


@pytest.mark.parametrize("name", ["FILE_ID", "File_Id", "file_ID", "Vector_Store_Id", "\u017fkill_id", "s\u212aill_id"])
def test_found_in_any_case(name: str) -> None:
    """A provider may take a name for another of which only the case differs; then it must be its account's too."""
    body = orjson.dumps({"input": [{"content": [{"type": "x", name: "id-1"}]}]})
    [mention] = mentions_of(scan(body, frozenset({"input"})), ("input",), MARKS)
    assert (NAMES[name.casefold()], "id-1") == (mention.kind, mention.id)


@pytest.mark.parametrize(
    "item",
    [{"ID": "item-1"}, {"Type": "item_reference", "iD": "item-1"}, {"x": [{"TYPE": "Item_Reference", "ID": "item-1"}]}],
)
def test_items_in_any_case(item: dict[str, Any]) -> None:
    """The same for what references an item by its `id`."""
    members = scan(orjson.dumps({"input": [item]}), frozenset({"input"}))
    assert [mention.id for mention in mentions_of(members, ("input",), MARKS)] == ["item-1"]


WRAPPERS = st.recursive(
    st.just("hole"),
    lambda inner: st.one_of(
        st.tuples(st.sampled_from(["a", "content", "output", "type", "x y", "\\u00e9", "file"]), inner).map(
            lambda pair: {pair[0]: pair[1], "other": 1}
        ),
        inner.map(lambda value: ["text", value, {}]),
    ),
    max_leaves=6,
)


def filled(wrapper: Any, value: Any) -> Any:
    if wrapper == "hole":
        return value
    if isinstance(wrapper, dict):
        return {name: filled(inner, value) for name, inner in wrapper.items()}
    return [filled(inner, value) for inner in wrapper] if isinstance(wrapper, list) else wrapper


@given(WRAPPERS, st.sampled_from(sorted(name for name, kind in NAMES.items() if kind == FILE)), st.booleans())
def test_found_at_any_depth(wrapper: Any, name: str, listed: bool) -> None:
    """Wherever a name stands, what it names is found; written in escapes too."""
    body = orjson.dumps({"model": "m", "input": [filled(wrapper, {name: ["file-1"] if listed else "file-1"})]})
    for written in (body, body.replace(b'"f', b'"\\u0066')):
        members = scan(written, frozenset({"model", "input"}))
        assert mentions_of(members, ("input",), MARKS) == [Mention(FILE, "file-1", "input")]


@pytest.mark.parametrize("name", sorted(OWN_NAMES))
def test_clients_own_names(name: str) -> None:
    """Below members in which clients choose the names, nothing is mentioned; beside them it is."""
    value = {name: {"file_id": "file-1", "deeper": [{"container": "c"}]}, "file_id": "file-2"}
    members = scan(orjson.dumps({"tools": [value]}), frozenset({"tools"}))
    assert mentions_of(members, ("tools",), MARKS) == [Mention(FILE, "file-2", "tools")]


@pytest.mark.parametrize("value", [5, None, True, {"file_id": 5}, [{"file_id": None}], {"conversation": [5]}])
def test_what_is_no_id(value: Any) -> None:
    """A value that is no text names nothing; the provider judges it."""
    members = scan(orjson.dumps({"input": value, "conversation": 5}), frozenset({"input", "conversation"}))
    assert mentions_of(members, ("input", "conversation"), MARKS) == []


TWICE = [
    '{"content":[{"file_id":"file-1"}],"content":"x"}',
    '{"content":"x","content":[{"file_id":"file-1"}]}',
    '{"file_id":"file-1","file_id":null}',
    '{"file":{"file_id":"file-1"},"f\\u0069le":{}}',
    '{"deep":[{"a":{"conversation":"c"},"a":1}]}',
]
"""Objects in which one member hides another, and with it what that mentions."""


@pytest.mark.parametrize("item", TWICE)
def test_what_can_be_read_in_two_ways(item: str) -> None:
    """A member that is there twice is refused, whatever its name: the provider may read the one that is not seen here."""
    members = scan(b'{"input":[%b]}' % item.encode(), frozenset({"input"}))
    with pytest.raises(ApiError) as refused:
        mentions_of(members, ("input",), MARKS)
    assert refused.value.case is Case.MALFORMED


def test_looks_through_a_long_list_in_steps() -> None:
    """What a history of thousands of parts mentions is found, and nobody waits until all of it was looked at."""
    part = b'{"type":"input_text","text":"a"}'
    body = b'{"input":[{"content":[%b]},{"file_id":"file-1"}]}' % b",".join([part] * 10_000)
    read = scan(body, frozenset({"input"}))
    assert mentions_of(read, ("input",), MARKS) == [Mention(FILE, "file-1", "input")]
    assert sum(1 for _ in mentioning(read, ("input",), MARKS)) > 10_000 // WALK_STEP
