"""Connections, without sockets: whatever pieces the bytes come in, the answers are the same."""

import asyncio
import re
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from meterproxy.errors import ApiError
from meterproxy.proxy.client import Client, Room
from meterproxy.proxy.server import Dispatch, HttpServer
from tests.proxy.raw import nothing_else


class Wire(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False

    def write(self, data: Any) -> None:
        assert not self.closed
        self.written += data

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    abort = close

    def can_write_eof(self) -> bool:
        return False

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0


async def echo(client: Client) -> None:
    try:
        body = await client.read_body(1 << 20, Room(1 << 20))
    except ApiError as error:
        client.refuse(error)
        return
    client.answer(200, [(b"x-target", client.target.encode())], client.method.encode() + b" " + body)


async def refuse(client: Client) -> None:
    """Answer without a look at the body."""
    client.answer(403, [], b"no")


async def answered(handler: Any, pieces: list[bytes], *, half_closes: bool) -> tuple[bytes, bool]:
    """What a client gets that sends these pieces, and whether its connection was closed."""
    server = HttpServer(Dispatch(handler, nothing_else, lambda _request: None))
    connection, wire = server(), Wire()
    connection.connection_made(wire)
    for piece in pieces:
        if not wire.closed:
            connection.data_received(piece)
        await asyncio.sleep(0)
    if half_closes and not wire.closed and not connection.eof_received():
        wire.close()
    for _ in range(60):
        await asyncio.sleep(0)
    closed = wire.closed
    connection.connection_lost(None)
    for _ in range(3):
        await asyncio.sleep(0)
    assert not server.connections
    await server.shutdown(0)
    return wire.written, closed


GOOD = [
    b"GET /v1/x HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
    b"POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
    b"POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\n\r\nGET / HTTP/1",
    b"POST /v1/y HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n\r\n\r",
    b"POST /v1/z HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4;x\r\n\r\n\r\n\r\n0\r\nT: u\r\n\r\n",
    b"HEAD /v1/x HTTP/1.1\r\nHost: a\r\n\r\n",
    b"\r\n",
]
LAST = [
    b"",
    b"POST /v1/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabcGET",
    b"POST /v1/x HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc",
    b"POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc",
    b"POST /v1/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n",
    b"POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    b"POST /v1/x HTTP/1.1\r\nHo",
    b"\x00\x00\r\n\r\nGET",
]


@settings(max_examples=300)
@given(
    requests=st.lists(st.sampled_from(GOOD), max_size=6),
    last=st.sampled_from(LAST),
    cuts=st.lists(st.integers(0, 600), max_size=12),
    half_closes=st.booleans(),
    handler=st.sampled_from([echo, refuse]),
)
def test_any_pieces(requests: list[bytes], last: bytes, cuts: list[int], half_closes: bool, handler: Any) -> None:
    """Requests that come one by one, all at once or in any pieces get the same answers and the same end."""
    data = b"".join(requests) + last
    edges = sorted({0, len(data), *(min(cut, len(data)) for cut in cuts)})
    pieces = [data[start:end] for start, end in pairwise(edges)]

    async def both() -> None:
        one_by_one = await answered(
            handler, [request for request in [*requests, last] if request], half_closes=half_closes
        )
        in_pieces = await answered(handler, pieces, half_closes=half_closes)
        assert ends(in_pieces) == ends(one_by_one)
        status = b"HTTP/1.1 200" if handler is echo else b"HTTP/1.1 403"
        assert in_pieces[0].count(status) >= len([request for request in requests if request != b"\r\n"])

    asyncio.run(both())


def ends(got: tuple[bytes, bool]) -> tuple[bytes, bool]:
    """An answer tells of the end only if that was known when it was written; each refusal has an id of its own."""
    return re.sub(rb"connection: close\r\n|x-(?:meterproxy-)?request-id: [0-9a-f-]{36}\r\n", b"", got[0]), got[1]
