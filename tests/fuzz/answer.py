"""The decoder of providers' answers: whole against cut, never complete when truncated, and against h11."""

from typing import Any

import h11

from meterproxy.proxy.upstream_decoder import AnswerDecoder, Phase
from tests.fuzz.pieces import cut, put_together, taken_apart, ways

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
HEAD_REQUEST = b"H"
"""What an input begins with where the request was HEAD."""

SEEDS = tuple(
    asked + put_together(answer, (20, 60))
    for asked in (b"G", HEAD_REQUEST)
    for answer in (
        OK + b"Content-Length: 5\r\nContent-Type: application/json\r\n\r\nhello",
        OK + b"Content-Length: 0\r\nConnection: close\r\n\r\n",
        OK + b"\r\nuntil it closes",
        OK + b"Content-Length: 3\r\n\r\nabcHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx",
        CHUNKED + b"5\r\nhello\r\n3;a=b\r\nyou\r\n0\r\nX: y\r\n\r\n",
        CHUNKED + b"5\r\nhello\r\n0\r\n\r\nmore",
        CHUNKED + b"A\r\n0123456789\r\n0\r\n\r\n",
        OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n"
        + OK
        + b"Content-Length: 1\r\n\r\nx",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\nContent-Length: 9\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\ncontent-length: 2\r\n\r\n{}",
        OK + b"X: a\r\n folded\r\nContent-Length: 1\r\n\r\nx",
        OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nxy",
        OK + b"Content-Length: 1\n\nx",
    )
)


def decoded(pieces: list[bytes], *, bodiless: bool) -> tuple[AnswerDecoder, bytes]:
    decoder = AnswerDecoder(bodiless=bodiless)
    return decoder, b"".join(map(decoder.feed, pieces))


def told(decoder: AnswerDecoder, body: bytes) -> tuple[Any, ...]:
    """What may not depend on the pieces."""
    return decoder.phase, decoder.status, decoder.reason, decoder.headers, decoder.content_length, body


def check(data: bytes) -> None:
    """Cuts change nothing, what lacks its end is a fault, and what is whole is what h11 reads."""
    bodiless = data[:1] == HEAD_REQUEST
    places, answer = taken_apart(data[1:])
    decoder, body = decoded([answer], bodiless=bodiless)
    whole = told(decoder, body)
    for pieces in ways(answer, places):
        assert told(*decoded(pieces, bodiless=bodiless)) == whole, pieces
    for place in places:
        _truncated(answer[:place], places, bodiless=bodiless, whole=(decoder, body))
    if decoder.phase in {Phase.ENDED, Phase.UNTIL_CLOSE}:
        _same_as_h11(answer, decoder, body, bodiless=bodiless)


def _truncated(short: bytes, places: list[int], *, bodiless: bool, whole: tuple[AnswerDecoder, bytes]) -> None:
    """A part of an answer is broken, or it is the whole one with something behind it."""
    decoder, body = decoded(cut(short, [place for place in places if place < len(short)]), bodiless=bodiless)
    phase = decoder.phase
    decoder.eof()
    assert whole[1].startswith(body)
    if phase in {Phase.ENDED, Phase.UNTIL_CLOSE}:
        assert decoder.phase is Phase.ENDED
        assert decoder.status == whole[0].status
        assert phase is Phase.UNTIL_CLOSE or body == whole[1]
    else:
        assert decoder.phase is Phase.BROKEN
        assert decoder.fault
        assert not decoder.reusable


def _same_as_h11(answer: bytes, decoder: AnswerDecoder, body: bytes, *, bodiless: bool) -> None:
    """Where h11 reads the answer to its end too, it is the same one."""
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="HEAD" if bodiless else "GET", target="/", headers=[("Host", "a")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(answer)
    if decoder.phase is Phase.UNTIL_CLOSE:
        connection.receive_data(b"")
    status, pieces = 0, []
    try:
        while not isinstance(event := connection.next_event(), h11.EndOfMessage):
            if isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                pieces.append(bytes(event.data))
            elif not isinstance(event, h11.InformationalResponse):
                return
    except h11.RemoteProtocolError:
        return
    assert (status, b"".join(pieces)) == (decoder.status, body)
