"""Every fault of the table does what it says, as seen on the wire."""

import asyncio
import gzip
import json
import zlib
from typing import Any

import openai
import orjson
import pytest
from yarl import URL

from meterproxy.simulator.faults import FAULTS, Faults, read_faults
from meterproxy.simulator.refusal import Refusal


def chat(stream: bool = False, **more: Any) -> dict[str, Any]:
    return {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}], "stream": stream, **more}


class Wire:
    """What one connection received, whole and undecoded."""

    def __init__(self, received: bytes, broken: str) -> None:
        self.received = received
        self.broken = broken

    @property
    def head(self) -> str:
        return self.received.partition(b"\r\n\r\n")[0].decode("latin-1")

    @property
    def status(self) -> int:
        return int(self.head.split()[1])

    @property
    def payload(self) -> bytes:
        """The body without chunk framing."""
        raw = self.received.partition(b"\r\n\r\n")[2]
        if "chunked" not in self.head:
            return raw
        body = b""
        while raw:
            size, _, raw = raw.partition(b"\r\n")
            body += raw[: int(size, 16)]
            raw = raw[int(size, 16) + 2 :]
        return body

    @property
    def events(self) -> list[bytes]:
        return [event for event in self.payload.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n\n") if event]

    @property
    def document(self) -> Any:
        return json.loads(self.payload)


async def connect(base_url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    url = URL(base_url)
    return await asyncio.open_connection(url.host, url.port)


async def send(base_url: str, fault: str, body: dict[str, Any], *, close: bool = True) -> Wire:
    """Send one request over a connection of its own and read to its end."""
    reader, writer = await connect(base_url)
    writer.write(request_bytes(fault, body, close=close))
    received, broken = b"", "closed"
    try:
        while part := await reader.read(65_536):
            received += part
    except ConnectionResetError:
        broken = "reset"
    writer.close()
    return Wire(received, broken)


def request_bytes(fault: str, body: dict[str, Any], *, close: bool) -> bytes:
    payload = orjson.dumps(body)
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer x\r\n"
        f"X-Simulate: {fault}\r\nContent-Length: {len(payload)}\r\n{'Connection: close' if close else 'X-Keep: yes'}\r\n\r\n"
    )
    return head.encode() + payload


def usage_in(events: list[bytes]) -> list[Any]:
    documents = [json.loads(event[6:]) for event in events if event.startswith(b"data: {")]
    return [document["usage"] for document in documents if document.get("usage") is not None]


# -- reading ------------------------------------------------------------------------------------------------------


def test_every_field_has_a_row() -> None:
    """The table and the fields are the same names, and every row says what it does."""
    assert set(FAULTS) == set(Faults.__slots__)
    assert all(fault.does for fault in FAULTS.values())


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        ("status=429,code=insufficient_quota", Faults(status=429, code="insufficient_quota")),
        (" no_done , cut=3 ", Faults(no_done=True, cut=3)),
        ('usage={"a": 1, "b": {"c": 2}},no_done', Faults(usage='{"a": 1, "b": {"c": 2}}', no_done=True)),
        ("content_type=text/html; charset=utf-8", Faults(content_type="text/html; charset=utf-8")),
    ],
)
def test_lists_are_read(listed: str, expected: Faults) -> None:
    """Names, values and JSON are told apart, in the header and in a text."""
    assert read_faults(listed, iter(())) == expected
    assert read_faults(None, iter(["no", f"so [[simulate: {listed}]] there"])) == expected


@pytest.mark.parametrize("listed", ["nothing", "cut", "cut=x", "no_done=1", "usage={", "compress=zip", "=3"])
def test_what_is_not_understood_is_refused(listed: str) -> None:
    """A typing error in a test must not pass as a healthy answer."""
    with pytest.raises(Refusal, match="no such fault"):
        read_faults(listed, iter(()))


async def test_a_marker_in_the_text_works(sdk: openai.AsyncOpenAI) -> None:
    """Faults pass through a proxy that filters headers."""
    with pytest.raises(openai.RateLimitError) as caught:
        await sdk.embeddings.create(model="text-embedding-3-small", input=["a", "[[simulate: status=429]]"])
    assert caught.value.code == "rate_limit_exceeded"


# -- instead of an answer -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "status", "type_", "code"),
    [
        ("status=400", 400, "invalid_request_error", None),
        ("status=401", 401, "invalid_request_error", "invalid_api_key"),
        ("status=402", 402, "insufficient_quota", "billing_not_active"),
        ("status=403", 403, "request_forbidden", "unsupported_country_region_territory"),
        ("status=429", 429, "requests", "rate_limit_exceeded"),
        ("status=429,code=insufficient_quota", 429, "insufficient_quota", "insufficient_quota"),
        ("status=500", 500, "server_error", None),
        ("status=503,code=custom", 503, "server_error", "custom"),
        ("status=418", 418, "server_error", None),
    ],
)
async def test_status(base_url: str, fault: str, status: int, type_: str, code: str | None) -> None:
    """Errors have OpenAI's words for their status or code."""
    wire = await send(base_url, fault, chat(stream=True))
    error = wire.document["error"]
    assert (wire.status, error["type"], error["code"]) == (status, type_, code)


async def test_retry_after_and_param(base_url: str) -> None:
    """The error's headers and param can be named."""
    wire = await send(base_url, "status=429,retry_after=2.5,param=model,header=X-More: yes", chat())
    assert "retry-after: 2.5" in wire.head
    assert "retry-after-ms: 2500" in wire.head
    assert "X-More: yes" in wire.head
    assert wire.document["error"]["param"] == "model"


async def test_reject_stream_options(base_url: str) -> None:
    """Only requests with the option are rejected."""
    asked = chat(stream=True, stream_options={"include_usage": True})
    wire = await send(base_url, "reject_stream_options", asked)
    assert (wire.status, wire.document["error"]["param"]) == (400, "stream_options")
    assert (await send(base_url, "reject_stream_options", chat(stream=True))).status == 200


# -- before the head ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["delay=0.001", "slow=0.0001,tokens=1", "informational=103"])
async def test_answers_in_spite_of_it(base_url: str, fault: str) -> None:
    """Delays change nothing of the answer, early heads come before it."""
    wire = await send(base_url, fault, chat())
    rest = wire.received.removeprefix(b"HTTP/1.1 103 Simulated\r\nx-early: yes\r\n\r\n")
    assert rest.startswith(b"HTTP/1.1 200 OK")
    assert (len(rest) < len(wire.received)) == fault.startswith("informational")
    assert rest.endswith(b"}}}")


async def test_drop(base_url: str) -> None:
    """The connection closes without a byte."""
    wire = await send(base_url, "drop", chat())
    assert (wire.received, wire.broken) == (b"", "closed")


async def test_drop_reused(base_url: str) -> None:
    """Only a connection that carried a request before is dropped."""
    reader, writer = await connect(base_url)
    writer.write(request_bytes("drop_reused", chat(), close=False))
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    await reader.readexactly(length)
    writer.write(request_bytes("drop_reused", chat(), close=False))
    assert await reader.read() == b""
    writer.close()


async def test_hang_ends_when_the_client_leaves(base_url: str) -> None:
    """Nothing is ever answered, and stopping the provider does not wait for it."""
    _, writer = await connect(base_url)
    writer.write(request_bytes("hang", chat(), close=False))
    await writer.drain()
    writer.close()
    await writer.wait_closed()


# -- the body on the wire -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("fault", "broken"), [("cut=5", "closed"), ("cut_rst=5", "reset")])
async def test_cut_stream(base_url: str, fault: str, broken: str) -> None:
    """A stream ends after five events, by FIN or by RST, without its last chunk."""
    wire = await send(base_url, fault, chat(stream=True))
    assert wire.broken == broken
    assert not wire.received.endswith(b"0\r\n\r\n")
    assert len(wire.events) == 5


async def test_cut_plain(base_url: str) -> None:
    """A plain answer ends after five bytes of what Content-Length promised."""
    wire = await send(base_url, "cut=5", chat())
    assert wire.payload == b'{"id"'
    assert "content-length: 5\r\n" not in wire.head.lower()


async def test_truncate(base_url: str) -> None:
    """A hundred bytes are owed."""
    wire = await send(base_url, "truncate", chat())
    promised = int(wire.head.lower().partition("content-length: ")[2].split("\r\n")[0])
    assert promised == len(wire.payload) + 100


async def test_after_end(base_url: str) -> None:
    """Bytes that belong to no answer follow it."""
    wire = await send(base_url, "after_end", chat())
    assert wire.received.endswith(b"\r\n\r\nextra")


@pytest.mark.parametrize("stream", [False, True])
async def test_close_delimited(base_url: str, stream: bool) -> None:
    """Neither length nor chunks: the end is the connection's."""
    wire = await send(base_url, "close_delimited", chat(stream), close=False)
    assert "transfer-encoding" not in wire.head.lower()
    assert "content-length" not in wire.head.lower()
    assert wire.payload.endswith(b"data: [DONE]\n\n" if stream else b"}}}")


async def test_piece(base_url: str) -> None:
    """Each piece is a chunk of its own, and together they are the stream."""
    wire = await send(base_url, "piece=7,tokens=3", chat(stream=True))
    assert wire.received.count(b"\r\n7\r\n") > 20
    assert wire.events[-1] == b"data: [DONE]"


async def test_content_type(base_url: str) -> None:
    """The answer lies about what it is."""
    wire = await send(base_url, "content_type=text/html; charset=utf-8", chat(stream=True))
    assert "content-type: text/html; charset=utf-8" in wire.head.lower()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("coding", "decode"), [("gzip", gzip.decompress), ("deflate", zlib.decompress)])
async def test_compress(base_url: str, stream: bool, coding: str, decode: Any) -> None:
    """Answers are compressed whatever was accepted."""
    wire = await send(base_url, f"compress={coding}", chat(stream))
    assert f"content-encoding: {coding}" in wire.head.lower()
    assert decode(wire.payload).endswith(b"data: [DONE]\n\n" if stream else b"}}}")


# -- what the answer says -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "more", "expected"),
    [
        ("tokens=7", {}, 7),
        ("tokens=70", {"max_tokens": 20}, 20),
        ("tokens=70,ignore_maximum", {"max_tokens": 20}, 70),
        ("tokens=7,reasoning=5", {}, 12),
        ("tokens=7", {"n": 3}, 21),
    ],
)
async def test_tokens(base_url: str, fault: str, more: dict[str, Any], expected: int) -> None:
    """Numbers of tokens can be named."""
    wire = await send(base_url, fault, chat(**more))
    assert wire.document["usage"]["completion_tokens"] == expected


async def test_names_and_cache(base_url: str) -> None:
    """The served model, its tier and cached tokens can be named."""
    wire = await send(base_url, "served_model=gpt-9,service_tier=priority,cached=3", chat())
    document = wire.document
    assert (document["model"], document["service_tier"]) == ("gpt-9", "priority")
    assert document["usage"]["prompt_tokens_details"]["cached_tokens"] == 3


@pytest.mark.parametrize("stream", [False, True])
async def test_tool_name_nul(base_url: str, stream: bool) -> None:
    """A called tool's name has a NUL and a lone surrogate, as escapes."""
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}]
    wire = await send(base_url, "tool_name_nul", chat(stream, tools=tools))
    assert rb'"look\u0000\ud800"' in wire.payload


# -- usage --------------------------------------------------------------------------------------------------------

USAGES: list[tuple[str, Any]] = [
    ("usage_negative", -9),
    ("usage_huge", 2**64),
    ("usage_float", 8.5),
    ('usage={"prompt_tokens": 184467440737095516160, "odd": [1, 2]}', 184467440737095516160),
]


@pytest.mark.parametrize(("fault", "prompt_tokens"), USAGES, ids=lambda value: str(value)[:14])
async def test_usage_is_told_wrong(base_url: str, fault: str, prompt_tokens: Any) -> None:
    """Plain answers and streams tell the same impossible numbers."""
    plain = await send(base_url, fault, chat())
    stream = await send(base_url, fault, chat(stream=True, stream_options={"include_usage": True}))
    assert plain.document["usage"]["prompt_tokens"] == prompt_tokens
    assert usage_in(stream.events) == [plain.document["usage"]]


async def test_usage_missing(base_url: str) -> None:
    """Absent is not null."""
    absent, null = [await send(base_url, fault, chat()) for fault in ("no_usage", "usage_null")]
    assert "usage" not in absent.document
    assert null.document["usage"] is None
    asked = chat(stream=True, stream_options={"include_usage": True})
    absent, null = [await send(base_url, fault, asked) for fault in ("no_usage", "usage_null")]
    assert b'"usage"' not in absent.payload
    assert b'"choices":[],"usage":null' in null.payload


@pytest.mark.parametrize("options", [{}, {"stream_options": {"include_usage": True}}])
async def test_usage_beside_choices(base_url: str, options: dict[str, Any]) -> None:
    """The last event with choices has the usage, whether it was asked for or not."""
    wire = await send(base_url, "usage_beside_choices", chat(stream=True, **options))
    last = json.loads(wire.events[-2][6:])
    assert last["choices"][0]["finish_reason"] == "stop"
    assert usage_in(wire.events) == [last["usage"]]


# -- streams ------------------------------------------------------------------------------------------------------


async def test_garbage(base_url: str) -> None:
    """Events that are no JSON and no UTF-8 come in mid-stream, the rest is whole."""
    wire = await send(base_url, "garbage", chat(stream=True))
    healthy = await send(base_url, "no_done", chat(stream=True))
    assert len(wire.events) == len(healthy.events) + 4 + 1
    with pytest.raises(UnicodeDecodeError):
        wire.payload.decode()


async def test_huge_line(base_url: str) -> None:
    """One event has exactly that many bytes."""
    wire = await send(base_url, "huge_line=300000", chat(stream=True))
    assert max(map(len, wire.events)) == 300_000


@pytest.mark.parametrize(("fault", "end"), [("newline=crlf", b"\r\n\r\n"), ("newline=cr", b"\r\r")])
async def test_newline(base_url: str, fault: str, end: bytes) -> None:
    """Events end in the bytes named."""
    wire = await send(base_url, fault, chat(stream=True))
    assert wire.payload.endswith(b"data: [DONE]" + end)
    assert b"\n\n" not in wire.payload


async def test_comment_and_empty_first(base_url: str) -> None:
    """Comments precede events; Azure's first event has neither choices nor usage."""
    wire = await send(base_url, "comment,empty_first", chat(stream=True))
    assert all(event.startswith(b": simulated\ndata: ") for event in wire.events)
    first = json.loads(wire.events[0].partition(b"data: ")[2])
    assert (first["choices"], "usage" in first, "prompt_filter_results" in first) == ([], False, True)


async def test_error_event(base_url: str) -> None:
    """An error object in mid-stream is the last event."""
    wire = await send(base_url, "error_event", chat(stream=True))
    assert json.loads(wire.events[-1][6:])["error"]["type"] == "server_error"
    assert wire.status == 200


async def test_error_event_raises_in_the_sdk(sdk: openai.AsyncOpenAI) -> None:
    """OpenAI's SDK recognises the error event."""
    events = await sdk.chat.completions.create(
        model="gpt-4o", messages=[{"role": "user", "content": "[[simulate: error_event]]"}], stream=True
    )
    with pytest.raises(openai.APIError, match="had an error"):
        async for _ in events:
            pass


async def test_no_done(base_url: str) -> None:
    """The stream ends in order, but without its last event."""
    wire = await send(base_url, "no_done", chat(stream=True))
    assert wire.received.endswith(b"0\r\n\r\n")
    assert b"[DONE]" not in wire.payload


async def test_json_for_stream(base_url: str) -> None:
    """A plain answer comes to a request for a stream."""
    wire = await send(base_url, "json_for_stream", chat(stream=True))
    assert wire.document["object"] == "chat.completion"
    assert "content-type: application/json" in wire.head.lower()
