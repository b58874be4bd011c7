"""Response facts: what a responses request says about its size."""

from typing import Any

import orjson
import pytest

from meterproxy.errors import ApiError, Case
from meterproxy.proxy.body import Members, scan
from meterproxy.proxy.endpoints import find_endpoint
from meterproxy.proxy.request_facts import read_facts
from meterproxy.proxy.request_texts import request_texts
from meterproxy.proxy.response_facts import AUDIO_UNBOUNDED, TOOL_CALLS_DEFAULT, tool_calls_edit
from tests.fuzz.body import finished

MEMBERS = find_endpoint("POST", "/v1/responses").route.members
DATA = "data:image/png;base64," + "A" * 5000


def members_of(**members: Any) -> Members:
    return scan(orjson.dumps({"model": "gpt-4o", **members}), MEMBERS)


def user(*parts: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


@pytest.mark.parametrize(
    "members",
    [
        {"input": "Hi"},
        {"input": [user({"type": "input_text", "text": "Hi"})]},
        {
            "input": [
                {"role": "user", "content": "Hi"},
                {"type": "message", "role": "assistant", "id": "msg_1", "content": []},
            ]
        },
        {"input": [{"type": "function_call", "id": "fc_1", "call_id": "c", "name": "f", "arguments": "{}"}]},
        {"input": [{"type": "function_call_output", "call_id": "c", "output": "yes"}]},
        {"input": [{"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA"}]},
        {
            "input": "Hi",
            "tools": [{"type": "function", "name": "f", "parameters": {}}, {"type": "custom", "name": "c"}],
        },
        {"input": "Hi", "previous_response_id": None, "conversation": None, "prompt": None},
    ],
)
def test_what_is_in_the_body(members: dict[str, Any]) -> None:
    """Text, calls and items that are whole are bounded by their bytes."""
    read = members_of(**members)
    facts = read_facts("response", read, "gpt-4o")
    assert not facts.outside
    assert facts.text_bytes == len(read.body)
    assert (facts.hosted_tools, facts.passes, facts.audio_tokens) == ((), 1, 0)


@pytest.mark.parametrize(
    "members",
    [
        {"input": "Hi", "previous_response_id": "resp_1"},
        {"input": "Hi", "conversation": "conv_1"},
        {"input": "Hi", "conversation": {"id": "conv_1"}},
        {"input": "Hi", "prompt": {"id": "pmpt_1"}},
        {"input": [{"type": "item_reference", "id": "msg_1"}]},
        {"input": [{"id": "msg_1"}]},
        {"input": [{"type": "reasoning", "id": "rs_1", "summary": []}]},
        {"input": [{"type": "image_generation_call", "id": "ig_1"}]},
        {"input": [{"type": "web_search_call", "id": "ws_1"}]},
        {"input": [user({"type": "input_file", "file_data": "data:application/pdf;base64,AAAA"})]},
        {"input": [user({"type": "input_file", "file_url": "https://example.com/a.pdf"})]},
        {"input": [user({"type": "input_image", "file_id": "file-1", "detail": "low"})]},
        {"input": [user({"type": "something_new"})]},
        {"input": [{"type": "message", "role": "user", "content": 5}]},
    ],
)
def test_what_comes_from_elsewhere(members: dict[str, Any]) -> None:
    """What a provider adds to a request, and what nobody here can read, counts as the whole context."""
    assert read_facts("response", members_of(**members), "gpt-4o").outside


def test_pictures() -> None:
    """Pictures count by their detail, not by their bytes; those made before count as the dearest."""
    read = members_of(
        input=[
            user({"type": "input_image", "image_url": DATA, "detail": "low"}),
            user({"type": "input_image", "image_url": DATA, "detail": "original"}),
            {
                "type": "computer_call_output",
                "call_id": "c",
                "output": {"type": "computer_screenshot", "image_url": DATA},
            },
            {"type": "image_generation_call", "id": "ig_1", "result": "A" * 5000},
        ]
    )
    facts = read_facts("response", read, "gpt-4o")
    assert facts.picture_details == ("low", "original", "high", "original")
    assert facts.text_bytes < 1000


def test_audio_is_not_text() -> None:
    """Audio may be dearer than text, and says nothing of its length."""
    facts = read_facts("response", members_of(input=[user({"type": "input_audio", "input_audio": {}})]), "gpt-4o")
    assert (facts.audio_tokens, facts.outside) == (AUDIO_UNBOUNDED, True)


TOOLS = """
# tool                                         | hosted
{"type":"web_search"}                          | web_search
{"type":"web_search_2025_08_26"}               | web_search
{"type":"web_search_preview"}                  | web_search
{"type":"file_search"}                         | file_search
{"type":"mcp","server_label":"a"}              | mcp
{"type":"tool_search"}                         | tool_search
{"type":"tool_search","execution":"client"}    |
{"type":"function","name":"image_generation"}  |
{"type":"computer"}                            |
{"type":"local_shell"}                         |
{"type":"apply_patch"}                         |
{"type":"shell","environment":{"type":"local"}}|
{"type":"image_generation"}                    | refused
{"type":"code_interpreter"}                    | refused
{"type":"shell"}                               | refused
{"type":"shell","environment":null}            | refused
{"type":"programmatic_tool_calling"}           | refused
{"type":"unheard_of"}                          | refused
{}                                             | refused
{"type":5}                                     | refused
5                                              | refused
"""


@pytest.mark.parametrize("row", [line for line in TOOLS.strip().splitlines() if not line.startswith("#")])
@pytest.mark.parametrize("place", ["tools", "additional_tools", "tool_search_output"])
def test_tools(row: str, place: str) -> None:
    """A tool is the client's, bounded, or refused, wherever it is brought in."""
    tool, expected = (cell.strip() for cell in row.split("|"))
    tools = [orjson.loads(tool)]
    read = (
        members_of(input="Hi", tools=tools) if place == "tools" else members_of(input=[{"type": place, "tools": tools}])
    )
    if expected == "refused":
        with pytest.raises(ApiError) as refused:
            read_facts("response", read, "gpt-4o")
        assert (refused.value.case, refused.value.param) == (Case.MALFORMED, "tools")
        return
    facts = read_facts("response", read, "gpt-4o")
    assert facts.hosted_tools == ((expected,) if expected else ())
    assert tool_calls_edit(read) == ({"max_tool_calls": b"%d" % TOOL_CALLS_DEFAULT} if expected else {})


def test_tools_cannot_be_hidden() -> None:
    """Tools within items that cannot be read are not let through, nor is their name written in escapes."""
    hidden = b'[{"type":"addition\\u0061l_tools","tools":[{"type":"image_generation"}]},{"content":5}]'
    body = b'{"model":"gpt-4o","input":' + hidden + b"}"
    with pytest.raises(ApiError):
        read_facts("response", scan(body, MEMBERS), "gpt-4o")


@pytest.mark.parametrize(("own", "calls"), [(None, TOOL_CALLS_DEFAULT), (0, 0), (3, 3)])
def test_calls(own: int | None, calls: int) -> None:
    """The client's own limit of calls holds; without one ours is written in."""
    read = members_of(input="Hi", tools=[{"type": "web_search"}], max_tool_calls=own)
    assert read_facts("response", read, "gpt-4o").tool_calls == calls
    assert bool(tool_calls_edit(read)) is (own is None)


@pytest.mark.parametrize("own", [-1, 1.5, "3", 2000, True])
def test_senseless_calls(own: Any) -> None:
    """A limit of calls that is none is refused."""
    with pytest.raises(ApiError):
        read_facts("response", members_of(input="Hi", max_tool_calls=own), "gpt-4o")


def test_compaction_on_the_way() -> None:
    """A context that may be compacted is read twice."""
    read = members_of(input="Hi", context_management=[{"type": "compaction", "compact_threshold": 1000}])
    assert read_facts("response", read, "gpt-4o").passes == 2


@pytest.mark.parametrize("odd", [5, True, ["message"], {"message": 1}])
@pytest.mark.parametrize("place", ["item", "part", "detail"])
def test_types_that_are_no_text(place: str, odd: Any) -> None:
    """What has a type of the wrong type counts as the whole context, and is no fault of ours."""
    part = {"type": "input_image", "detail": odd} if place == "detail" else {"type": odd}
    item = {"type": odd} if place == "item" else user(part)
    assert read_facts("response", members_of(input=[item]), "gpt-4o").outside


def test_too_many_items() -> None:
    """Input of too many parts is refused before anything is built of it."""
    body = b'{"model":"gpt-4o","input":[' + b",".join([b"{}"] * 200_000) + b"]}"
    with pytest.raises(ApiError, match="too many parts"):
        read_facts("response", scan(body, MEMBERS), "gpt-4o")


def test_texts_to_count() -> None:
    """What a model reads is counted: texts, calls and their outputs, instructions, tools as they are written."""
    read = members_of(
        instructions="Be kind.",
        input=[
            user({"type": "input_text", "text": "Hi"}),
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "Yes."},
        ],
    )
    assert finished(request_texts("response", read)) == (["Hi", "f", "{}", "Yes.", '"Be kind."'], 0)
    assert finished(request_texts("response", members_of(input="Hello"))) == (["Hello"], 0)
