"""Responses as functions of bytes."""

import itertools
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meterproxy.proxy.upstream_decoder import CLOSED_BEFORE_ANSWER, AnswerDecoder, Phase

OK = b"HTTP/1.1 200 OK\r\n"


def decode(*pieces: bytes, bodiless: bool = False) -> tuple[AnswerDecoder, bytes]:
    decoder = AnswerDecoder(bodiless=bodiless)
    return decoder, b"".join([decoder.feed(piece) for piece in pieces])


@dataclass(frozen=True)
class Response:
    """A valid response and what it says."""

    data: bytes
    status: int
    reason: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes
    head_bytes: int
    bodiless: bool
    until_close: bool


NAMES = st.text("abcXYZ-09", min_size=1, max_size=12).map(lambda text: b"x-" + text.encode())
VALUES = st.text("abc XYZ,;=\"'\t", max_size=20).map(lambda text: text.strip().encode())
BODIES = st.one_of(st.binary(max_size=60), st.text("0\r\nHTP/1. ", max_size=60).map(str.encode))


@st.composite
def chunked(draw: st.DrawFn, body: bytes) -> bytes:
    data = b""
    while body:
        size = draw(st.integers(1, len(body)))
        extension = draw(st.sampled_from([b"", b";a=b", b';a="b"']))
        data += b"%x%b\r\n%b\r\n" % (size, extension, body[:size])
        body = body[size:]
    trailers = draw(st.sampled_from([b"", b"x-trailer: 1\r\n", b"a: 1\r\nb: 2\r\n"]))
    return data + b"0\r\n" + trailers + b"\r\n"


@st.composite
def responses(draw: st.DrawFn) -> Response:
    status = draw(st.sampled_from([200, 201, 204, 304, 404, 429, 500]))
    reason = draw(st.sampled_from([b"OK", b"", b"Not Quite"]))
    headers = draw(st.lists(st.tuples(NAMES, VALUES), max_size=5))
    bodiless = draw(st.booleans()) if status == 200 else False
    empty = bodiless or status in {204, 304}
    body = b"" if empty else draw(BODIES)
    framing = draw(st.sampled_from(["length", "chunks", "close"]))
    if framing == "length":
        headers = [*headers, (b"Content-Length", b"%d" % (7 if empty else len(body)))]
    elif framing == "chunks":
        headers = [(b"Transfer-Encoding", b"Chunked"), *headers]
    interim = b"".join(
        draw(
            st.lists(st.sampled_from([b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 E\r\na: b\r\n\r\n"]), max_size=2)
        )
    )
    fields = b"".join(b"%b: %b\r\n" % field for field in headers)
    head = interim + b"HTTP/1.1 %d %b\r\n%b\r\n" % (status, reason, fields)
    sent = body if empty or framing != "chunks" else draw(chunked(body))
    return Response(head + sent, status, reason, headers, body, len(head), bodiless, framing == "close" and not empty)


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    points = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in itertools.pairwise(points)]


CUTS = st.lists(st.integers(0, 1000), max_size=12)


@given(responses(), CUTS)
def test_any_split_gives_the_same_answer(response: Response, cuts: list[int]) -> None:
    """Status, reason, headers and body do not depend on how the bytes arrive."""
    decoder, body = decode(*split(response.data, cuts), bodiless=response.bodiless)
    if response.until_close:
        assert decoder.phase is Phase.UNTIL_CLOSE
        decoder.eof()
    assert decoder.phase is Phase.ENDED
    assert (decoder.status, decoder.reason, decoder.headers, body) == (
        response.status,
        response.reason,
        response.headers,
        response.body,
    )
    assert decoder.reusable is not response.until_close


@given(responses(), st.data(), CUTS)
def test_truncation_never_looks_complete(response: Response, data: st.DataObject, cuts: list[int]) -> None:
    """Whatever is missing, the end of input is a fault; where only closing ends a body, its loss is."""
    short = response.data[: data.draw(st.integers(0, len(response.data) - 1))]
    decoder, _ = decode(*split(short, cuts), bodiless=response.bodiless)
    if response.until_close and len(short) >= response.head_bytes:
        decoder.cut()
    else:
        decoder.eof()
    assert decoder.phase is Phase.BROKEN
    assert decoder.fault
    assert not decoder.reusable
    assert (decoder.fault == CLOSED_BEFORE_ANSWER) is (not short)


@given(
    responses(),
    st.sampled_from(
        [b"\r\n", b"\n", b"\r", b"x", b"0\r\n\r\n", OK + b"\r\n", OK + b"Content-Length: 1\r\n\r\nx", b"\0"]
    ),
    CUTS,
)
def test_a_byte_after_the_end_makes_a_connection_unfit(response: Response, extra: bytes, cuts: list[int]) -> None:
    """However it arrives, even if it is only a line end, and without harm to the answer before it."""
    decoder, body = decode(*split(response.data + extra, cuts), bodiless=response.bodiless)
    if not response.until_close:
        assert (decoder.phase, decoder.reusable, body) == (Phase.ENDED, False, response.body)


@given(st.binary(max_size=200), st.booleans(), CUTS)
def test_no_bytes_raise(data: bytes, after_head: bool, cuts: list[int]) -> None:
    """Garbage is a fault to be told, never an exception out of the decoder."""
    head = OK + b"Transfer-Encoding: chunked\r\n\r\n" if after_head else b""
    decoder, _ = decode(head, *split(data, cuts))
    decoder.eof()
    assert decoder.phase in {Phase.ENDED, Phase.BROKEN}


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
            "unexpected_upgrade",
        ),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "unexpected_upgrade"),
        (OK + b"a: b\r\n c\r\n\r\n", "malformed_head"),
        (OK + b"a: b\r\n\tc\r\n\r\n", "malformed_head"),
        (OK + b"a: b\0c\r\n\r\n", "malformed_head"),
        (OK + b"a: b\rc\r\n\r\n", "malformed_head"),
        (OK + b"a : b\r\n\r\n", "malformed_head"),
        (OK + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\n", "malformed_head"),
        (OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n", "malformed_head"),
        (OK + b"Content-Length: 5, 5\r\n\r\n", "malformed_head"),
        (OK + b"Content-Length: -1\r\n\r\n", "malformed_head"),
        (OK + b"Content-Length: 99999999999999999999999\r\n\r\n", "malformed_head"),
        (OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n", "unknown_transfer_coding"),
        (OK + b"Transfer-Encoding: gzip\r\n\r\n", "unknown_transfer_coding"),
        (OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", "unknown_transfer_coding"),
        (b"HTTP/2.0 200 OK\r\n\r\n", "malformed_head"),
        (b"SSH-2.0-OpenSSH\r\n", "malformed_head"),
        (b"\r\n\r\n" + OK, "malformed_head"),
        (b"HTTP/1.1 099 Low\r\n\r\n", "malformed_head"),
        (OK + b"a: " + b"b" * 70000, "head_too_large"),
        (b"HTTP/1.1 103 Early\r\n\r\n" * 4000, "head_too_large"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", "malformed_body"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nokay\r\n", "malformed_body"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\na: " + b"b" * 70000, "trailers_too_large"),
    ],
)
def test_faults(data: bytes, fault: str) -> None:
    """What no provider should send is a fault with a short name, whole or byte by byte."""
    for size in (len(data), 1000, 1) if len(data) < 1000 else (len(data), 1000):
        decoder, _ = decode(*[data[start : start + size] for start in range(0, len(data), size)])
        if fault == "trailers_too_large" and size == len(data):
            continue  # one piece is not endless
        assert (decoder.phase, decoder.fault, decoder.reusable) == (Phase.BROKEN, fault, False)


@pytest.mark.parametrize(
    ("data", "body", "reusable"),
    [
        (OK + b"Content-Length: 2\r\n\r\nok", b"ok", True),
        (OK + b"Content-Length: 2\r\nConnection: keep-alive\r\n\r\nok", b"ok", True),
        (OK + b"Content-Length: 2\r\nConnection: Close\r\n\r\nok", b"ok", False),
        (OK + b"Content-Length: 2\r\nConnection: foo, close\r\n\r\nok", b"ok", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nok", b"ok", False),
        (OK + b"Content-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", b"ok", False),
        (OK + b"Transfer-Encoding: chunked\r\nContent-Length: 9\r\n\r\n2\r\nok\r\n0\r\n\r\n", b"ok", False),
        (OK + b"Connection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\nok", b"ok", True),
        (OK + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n2\r\nok\r\n0\r\n\r\n", b"ok", False),
    ],
)
def test_framing_decides_reuse(data: bytes, body: bytes, reusable: bool) -> None:
    """Whether the connection may serve another request."""
    decoder, read = decode(data)
    assert (decoder.phase, read, decoder.reusable) == (Phase.ENDED, body, reusable)


def test_body_before_a_fault_is_given_out() -> None:
    """What arrived whole in the same piece as garbage is not lost: it may hold the usage."""
    decoder, body = decode(OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\nzz\r\n")
    assert (decoder.phase, body) == (Phase.BROKEN, b"ok")


def test_facts_of_the_head() -> None:
    """Headers stay as they came; type and length are ready for use, the length only where it frames the body."""
    decoder, _ = decode(
        OK + b"CONTENT-type: Text/Event-Stream; Charset=UTF-8\r\nX-A: 1\r\nX-A: 2\r\nContent-Length: 4\r\n\r\n"
    )
    assert decoder.content_type == b"text/event-stream"
    assert decoder.content_length == 4
    assert decoder.headers[1:3] == [(b"X-A", b"1"), (b"X-A", b"2")]
    decoder, _ = decode(OK + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert (decoder.content_type, decoder.content_length) == (b"", None)


def test_trailers_are_dropped() -> None:
    """A trailer never shows up among the headers."""
    decoder, body = decode(OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Late: 1\r\n\r\n")
    assert (decoder.headers, body, decoder.reusable) == ([(b"Transfer-Encoding", b"chunked")], b"ok", True)


HEAD_LINES = st.sampled_from(
    [
        b"Content-Length: 2",
        b"content-length:2",
        b"Content-Length: 02",
        b"Content-Length: 2 ",
        b"Content-Length: 3",
        b"Content-Length: 0",
        b"Content-Length: ",
        b"Content-Length: -2",
        b"Content-Length: +2",
        b"Content-Length: 2, 2",
        b"Content-Length: 9999999999999999999",
        b"Content-Length : 2",
        b"Transfer-Encoding: chunked",
        b"Transfer-Encoding: gzip",
        b"Connection: close",
        b"Connection: keep-alive",
        b"Content-Type: application/JSON; charset=utf-8",
        b"Content-Type:",
        b"X-A: 1",
        b"x-a:\t2\t3 ",
        b"X-B: \xe9",
        b"X-C: a\x00b",
        b"X-D: a\x01b",
        b"X-E: a\rb",
        b"X-F: a\nX-G: b",
        b" folded: 1",
        b"no colon",
        b"X(: 1",
        b": nameless",
    ]
)
STATUS_LINES = st.sampled_from(
    [
        b"HTTP/1.1 200 OK",
        b"HTTP/1.1 200",
        b"HTTP/1.1 200 ",
        b"HTTP/1.1  200 OK",
        b"HTTP/1.1 204 No Content",
        b"HTTP/1.1 304 Not Modified",
        b"HTTP/1.1 100 Continue",
        b"HTTP/1.1 503 Not \xe9",
        b"HTTP/1.1 2000 OK",
        b"HTTP/1.1 99 OK",
        b"HTTP/1.0 200 OK",
        b"HTTP/2 200 OK",
        b"http/1.1 200 OK",
        b"\r\nHTTP/1.1 200 OK",
    ]
)


@given(STATUS_LINES, st.lists(HEAD_LINES, max_size=5), st.sampled_from([b"", b"ok", b"okay", b"2\r\nok\r\n0\r\n\r\n"]))
def test_the_quick_way_reads_what_llhttp_reads(status: bytes, lines: list[bytes], body: bytes) -> None:
    """A head that comes in one piece says the same as one that comes byte by byte, which llhttp reads."""
    data = b"\r\n".join([status, *lines, b"", b""]) + body
    quick, slow = decode(data), decode(*(data[at : at + 1] for at in range(len(data))))
    assert facts(*quick) == facts(*slow)


def facts(decoder: AnswerDecoder, body: bytes) -> tuple[object, ...]:
    """All that a user of the decoder can see; of one that is broken, that it is."""
    if decoder.phase is Phase.BROKEN:
        return Phase.BROKEN, decoder.reusable
    head = (decoder.reason, decoder.headers, decoder.fields, decoder.content_type, decoder.content_length)
    return decoder.phase, decoder.status, *head, decoder.reusable, body
