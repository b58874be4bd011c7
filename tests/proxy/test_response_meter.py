"""The response meter: what a stream says, in whatever pieces it comes."""

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meterproxy.core.resource import CONTAINER, ITEM
from meterproxy.core.usage import Usage
from meterproxy.proxy import response_meter
from meterproxy.proxy.new_ids import OWN, Found
from meterproxy.proxy.response_meter import ResponseMeter, read_response
from meterproxy.proxy.texts import TextPool

USAGE = {
    "input_tokens": 20,
    "input_tokens_details": {"cached_tokens": 5, "cache_write_tokens": 0},
    "output_tokens": 10,
    "output_tokens_details": {"reasoning_tokens": 4},
    "total_tokens": 30,
}
TAKEN = Usage(input=15, cache_read=5, output=6, reasoning=4, requests=1)
MESSAGE = {"id": "msg_1", "type": "message", "content": [{"type": "output_text", "text": "Héllo"}]}
SEARCH = {"id": "ws_1", "type": "web_search_call", "action": {"type": "search", "query": "a"}}
OPENED = {"id": "ws_2", "type": "web_search_call", "action": {"type": "open_page", "url": "a"}}
FILES = {"id": "fs_1", "type": "file_search_call"}
CODE = {"id": "ci_1", "type": "code_interpreter_call", "container_id": "cntr_1"}
CALL = {"id": "fc_1", "type": "function_call", "name": "weather", "arguments": "{}"}


def response(status: str = "completed", **members: Any) -> dict[str, Any]:
    return {"id": "resp_1", "object": "response", "status": status, "model": "gpt-4o-2024-08-06", **members}


def event(kind: str, newline: str = "\n", **members: Any) -> bytes:
    data = orjson.dumps({"type": kind, "sequence_number": 1, **members}).decode()
    return f"event: {kind}{newline}data: {data}{newline}{newline}".encode()


def delta(text: str, newline: str = "\n", kind: str = "response.output_text.delta") -> bytes:
    return event(kind, newline, item_id="msg_1", output_index=0, content_index=0, delta=text, logprobs=[])


def stream(newline: str = "\n") -> bytes:
    return b"".join(
        [
            event("response.created", newline, response=response("in_progress", usage=None, output=[])),
            event("response.output_item.added", newline, output_index=0, item={**MESSAGE, "content": []}),
            delta("Hé", newline),
            delta('llo "\u2028world', newline),
            delta('"type":"response.completed"', newline),
            event("response.output_item.done", newline, output_index=0, item=MESSAGE),
            event("response.completed", newline, response=response(usage=USAGE, output=[MESSAGE])),
        ]
    )


def run(pieces: list[bytes]) -> tuple[ResponseMeter, bytes, list[tuple[int, Found]]]:
    """Feed pieces; what went on, and each new id with how much had gone on before it was told."""
    meter = ResponseMeter("response", TextPool())
    forwarded, told = b"", []
    for piece in pieces:
        now = meter.feed(piece)
        told += [(len(forwarded), found) for found in meter.new_ids()]
        forwarded += now
        if meter.terminal and meter.terminal not in forwarded:
            forwarded += meter.terminal
            meter.terminal = b""
    rest = meter.finish()
    told += [(len(forwarded), found) for found in meter.new_ids()]
    return meter, forwarded + rest, told


@settings(max_examples=200)
@given(st.data(), st.sampled_from(["\n", "\r\n", "\r"]), st.booleans(), st.booleans())
def test_any_pieces_give_the_same(data: st.DataObject, newline: str, end_missing: bool, comments: bool) -> None:
    """Bytes go on unchanged, ids are told before they do, and the reading is the same for any cut of the stream."""
    whole = stream(newline)
    if comments:
        whole = b": hello" + newline.encode() * 2 + whole
    if end_missing:
        whole = whole[: -len(newline)]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=30)))
    pieces = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    meter, forwarded, told = run([piece for piece in pieces if piece])
    assert forwarded == whole
    first = {found: before for before, found in reversed(told)}
    for found, before in first.items():
        assert found.id.encode() not in whole[:before]
    assert {found for _, found in told} == {Found(OWN, "resp_1"), Found(ITEM, "msg_1")}
    reading = meter.reading()
    assert (reading.usage, reading.provider_id, reading.served_model) == (TAKEN, "resp_1", "gpt-4o-2024-08-06")
    assert meter.done
    assert meter.texts() == (['Héllo "\u2028world"type":"response.completed"'], 0)
    assert meter.events == 3


def test_one_byte_at_a_time() -> None:
    """The narrowest pieces change nothing either."""
    whole = stream()
    _, forwarded, _ = run([whole[at : at + 1] for at in range(len(whole))])
    assert forwarded == whole


def test_terminal_event_waits() -> None:
    """What comes before the terminal event goes on at once, the event and what came with it waits."""
    meter = ResponseMeter("response", TextPool())
    last = event("response.incomplete", response=response("incomplete", usage=USAGE))
    assert meter.feed(delta("a") + last + b": bye\n\n") == delta("a")
    assert meter.terminal == last + b": bye\n\n"
    assert meter.reading().usage == TAKEN
    assert meter.feed(b"more") == b"more"


@pytest.mark.parametrize(
    "last",
    [
        b'data: {"type":"response.completed","response":{"id":"resp_1","status":"completed"}}\n\n',
        b'event: response.completed\ndata: {"response":{"id":"resp_1","status":"completed"}}\n\n',
        b'data: {"type" : "response.completed","response":{"id":"resp_1","status":"completed"}}\n\n',
        b': c\revent: response.completed\rdata: {"response":{"id":"resp_1","status":"completed"}}\r\r',
        b'event:response.failed\ndata:{"type":"response.failed","response":{"id":"resp_1","status":"failed"}}\n\n',
        b'data: {"type":"response\\u002ecompleted","response":{"id":"resp_1","status":"completed"}}\n\n',
    ],
)
def test_terminal_event_by_either_name(last: bytes) -> None:
    """The `event:` line or the data's type tells, however it is spelled."""
    meter = ResponseMeter("response", TextPool())
    assert meter.feed(last) == b""
    assert meter.terminal == last
    assert meter.done


@pytest.mark.parametrize(
    ("last", "failed"),
    [
        (event("error", code="server_error", message="No."), True),
        (b'data: {"error": {"message": "No."}}\n\n', True),
        (event("response.failed", response=response("failed", error={"code": "a", "message": "b"}, usage=None)), True),
        (event("response.completed", response=response(error=None, usage=USAGE)), False),
        (delta('{"error": {}}'), False),
    ],
)
def test_errors_are_noticed(last: bytes, failed: bool) -> None:
    """An error event, or a response that failed, is not a text that speaks of one."""
    meter = ResponseMeter("response", TextPool())
    meter.feed(event("response.created", response=response("in_progress")) + last)
    assert meter.reading().failed is failed


@pytest.mark.parametrize("odd", [["response.completed"], {"response.completed": 1}])
def test_names_that_are_no_text(odd: Any) -> None:
    """An event or a status of the wrong type says nothing, and the rest of the stream is read."""
    meter = ResponseMeter("response", TextPool())
    named = orjson.dumps({"type": odd, "response": response() | {"status": odd}})
    meter.feed(b"event: response.created\ndata: " + named + b"\n\n" + event("response.completed", response=response()))
    assert (meter.own_id, meter.running, meter.done) == ("resp_1", False, True)


def test_garbage_passes() -> None:
    """What cannot be read goes on as it came, and says nothing."""
    garbage = (
        b'data: {"type":"response.created", "response": {\n\ndata: \xff\xfe\n\nevent: response.completed\n\n: x\n\n'
    )
    meter = ResponseMeter("response", TextPool())
    forwarded = meter.feed(garbage + delta("a"))
    assert forwarded + meter.terminal + meter.finish() == garbage + delta("a")
    assert meter.new_ids() == []


def test_what_tools_did() -> None:
    """Calls are named and searches counted, from items while the stream runs, from the response at its end."""
    meter = ResponseMeter("response", TextPool())
    meter.feed(event("response.created", response=response("in_progress")))
    for item in (SEARCH, OPENED, FILES, CODE, CALL):
        meter.feed(event("response.output_item.done", output_index=0, item=item))
    reading = meter.reading()
    assert reading.tools == ("web_search", "file_search", "code_interpreter", "weather")
    assert (reading.web_searches, reading.file_searches, reading.usage) == (1, 1, None)
    assert Found(CONTAINER, "cntr_1") in meter.new_ids()
    meter.feed(event("response.completed", response=response(usage=USAGE, output=[SEARCH, SEARCH])))
    reading = meter.reading()
    assert reading.usage == TAKEN._replace(web_searches=2)
    assert reading.tools == ("web_search",)


def test_event_too_long_to_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unfinished event beyond the maximum is told, and none of it goes on."""
    monkeypatch.setattr(response_meter, "HELD_MAXIMUM", 100)
    meter = ResponseMeter("response", TextPool())
    assert meter.feed(b'data: {"type":"' + b"x" * 200) == b""
    assert meter.overlong


@pytest.mark.parametrize(
    ("members", "usage", "running", "failed"),
    [
        ({"usage": USAGE}, TAKEN, False, False),
        ({"usage": None, "status": "queued"}, None, True, False),
        ({"usage": None, "status": "in_progress"}, None, True, False),
        ({"usage": None, "status": "failed"}, None, False, True),
        ({"usage": {**USAGE, "output_tokens": -1}}, None, False, False),
        (
            {"usage": USAGE, "tool_usage": {"web_search": {"num_requests": 3}}},
            TAKEN._replace(web_searches=3),
            False,
            False,
        ),
        (
            {"usage": USAGE, "output": [SEARCH, OPENED, FILES]},
            TAKEN._replace(web_searches=1, file_searches=1),
            False,
            False,
        ),
        ({"usage": USAGE, "output": "odd", "tool_usage": "odd"}, TAKEN, False, False),
        (
            {"usage": USAGE, "tool_usage": {"web_search": {"num_requests": -3}}, "output": [SEARCH]},
            TAKEN._replace(web_searches=1),
            False,
            False,
        ),
    ],
)
def test_plain_answers(members: dict[str, Any], usage: Usage | None, running: bool, failed: bool) -> None:
    """A plain answer tells usage, whether it goes on, and whether it failed."""
    reading = read_response("response", orjson.dumps({**response(), **members}))
    assert (reading.usage, reading.running, reading.failed) == (usage, running, failed)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"nonsense", b'{"id": 5, "usage": []}', b'{"usage":' * 3000, b'{"status": ["queued"]}']
)
def test_unreadable_answers(body: bytes) -> None:
    """What cannot be read says nothing."""
    reading = read_response("response", body)
    assert (reading.usage, reading.provider_id) == (None, None)


@pytest.mark.parametrize(
    "odd",
    [
        delta("UklGRg==", kind="response.output_audio.delta"),
        b'data: {"type":"response.output_text.delta","delta":"no quote\n\n',
        b'data: {"type":"response.output_text.delta","delta":"a return\r\rwithin"}\n\n',
    ],
)
def test_what_is_kept_does_not_depend_on_what_came_with_it(odd: bytes) -> None:
    """Sound, and texts without their end, neither hide nor swallow the texts that come in the same piece."""
    events = [delta("one "), odd, delta("two")]
    meters = run(events)[0], run([b"".join(events)])[0]
    assert [meter.texts() for meter in meters] == [(["one two"], 0)] * 2
    assert meters[0].events == meters[1].events == 2
