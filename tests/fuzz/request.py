"""The server's reader of requests: whole against cut, and what it accepts is what h11 reads of the same bytes."""

from typing import NamedTuple

import h11

from meterproxy.errors import ApiError
from meterproxy.proxy.request_framing import Chunked, Counted
from meterproxy.proxy.request_head import NO_LENGTH
from meterproxy.proxy.request_reader import HeadLimits, HeadReader
from tests.fuzz.pieces import put_together, taken_apart, ways
from tests.proxy.hostile import ROWS

LIMITS = HeadLimits(line_bytes=300, field_bytes=300, head_bytes=1000, fields=10)
_SECRET = "mp-x"
_POST = b"POST /v1/x HTTP/1.1\r\nHost: a\r\n"

SEEDS = tuple(
    put_together(sent, (5, 40))
    for sent in (
        _POST + b"Content-Length: 2\r\n\r\nok" + _POST + b"content-length: 4\r\n\r\nfour",
        (_POST + b"Content-Length: 2\r\n\r\nok") * 3,
        b"GET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n" * 2,
        _POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n1;a=b\r\nx\r\n0\r\nX: y\r\n\r\n" + _POST + b"\r\n",
        b"\r\n\r\nGET http://a/v1 HTTP/1.0\r\n\r\n",
        _POST + b"Expect: 100-continue\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx",
        _POST + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\nbehind",
        *(row.sent(_SECRET) for row in ROWS if row.section == "request" and "×" not in row.wire),
    )
)


class Read(NamedTuple):
    """One request as it was read; `whole` says whether its body had come to its end."""

    method: str
    target: str
    fields: tuple[tuple[bytes, bytes], ...]
    body: bytes
    whole: bool


class _Connection:
    """As much of a connection as reads requests one after the other."""

    def __init__(self) -> None:
        self.requests: list[Read] = []
        self.fault: int | None = None
        self._heads = HeadReader(LIMITS)
        self._framing: Counted | Chunked | None = None

    def feed(self, data: bytes) -> None:
        try:
            while data and self.fault is None:
                data = self._head(data) if self._framing is None else self._body(self._framing, data)
        except ApiError as error:
            self.fault = error.status

    def _head(self, data: bytes) -> bytes:
        rest = self._heads.feed(data)
        if rest is None:
            return b""
        head, length = self._heads.head, self._heads.length
        assert head is not None
        self.requests.append(Read(head.method, head.target, head.raw_headers, b"", whole=length == 0))
        if length:
            self._framing = Chunked() if length == NO_LENGTH else Counted(length)
        return rest

    def _body(self, framing: Counted | Chunked, data: bytes) -> bytes:
        piece, rest = framing.feed(data)
        last = self.requests[-1]
        self.requests[-1] = last._replace(body=last.body + piece, whole=framing.ended)
        if framing.ended:
            self._framing = None
        return rest


def read(pieces: list[bytes]) -> _Connection:
    connection = _Connection()
    for piece in pieces:
        connection.feed(piece)
    return connection


def check(data: bytes) -> None:
    """Cuts change nothing, and no other reader finds other requests in what we accept."""
    places, sent = taken_apart(data)
    whole = read([sent])
    for pieces in ways(sent, places):
        cut = read(pieces)
        assert (cut.fault is None) == (whole.fault is None), (whole.fault, cut.fault)
        assert _accepted(cut) == _accepted(whole)
    _same_as_h11(sent, [request for request in whole.requests if request.whole])


def _accepted(connection: _Connection) -> list[Read]:
    """What is served whatever comes behind it: requests that came whole, or in part if nothing was wrong."""
    return [request for request in connection.requests if request.whole or connection.fault is None]


def _same_as_h11(sent: bytes, requests: list[Read]) -> None:
    """As far as h11 goes along, it reads the same requests."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(sent)
    for request in requests:
        try:
            heard, body = _next(connection)
        except h11.RemoteProtocolError:
            return
        if heard is None:
            return
        assert heard.method.decode() == request.method
        assert heard.target.decode().endswith(request.target.removeprefix("/"))  # its own may name a host
        assert body == request.body
        if heard.http_version == b"1.0" or not _start_next(connection):
            return


def _next(connection: h11.Connection) -> tuple[h11.Request | None, bytes]:
    """One request with its whole body."""
    heard, pieces = None, []
    while not isinstance(event := connection.next_event(), h11.EndOfMessage):
        if isinstance(event, h11.Request):
            heard = event
        elif isinstance(event, h11.Data):
            pieces.append(bytes(event.data))
        else:
            return None, b""
    return heard, b"".join(pieces)


def _start_next(connection: h11.Connection) -> bool:
    """Whether h11 would read another request from this connection."""
    connection.send(h11.Response(status_code=200, headers=[("Content-Length", "0")]))
    connection.send(h11.EndOfMessage())
    if connection.their_state is not h11.DONE or connection.our_state is not h11.DONE:
        return False
    connection.start_next_cycle()
    return True
