"""The client's side of one exchange: what it asked in bytes, and the only way to answer it.

Rules
-----
- Nothing here logs or echoes a client's bytes.
- An answer is written as raw bytes in one write a piece; nothing is added but framing and `Connection`.
- A client that has left is not an error: writing to it does nothing, `gone` says so.
- An answer that breaks off must not look complete: it ends by `abort`, never by `end`.
- Most bodies come with their heads, in one piece: `whole_body` has them at once, and nobody waits.
"""

import asyncio
import io
import os
import time
from collections.abc import Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, Protocol

from multidict import MultiMapping

from meterproxy.core.identifier import uuid7
from meterproxy.errors import ApiError, Case
from meterproxy.proxy.incoming_body import IncomingBody
from meterproxy.proxy.request_head import RequestHead

if TYPE_CHECKING:
    from meterproxy.proxy.client_connection import ClientConnection

COPIED_BYTES: Final = 1 << 18
"""The longest body that is written in one piece with its head."""
REQUEST_ID: Final = b"x-meterproxy-request-id"
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
JSON_TYPE: Final = (b"content-type", b"application/json")

_STATUS_LINES: Final = {status.value: f"HTTP/1.1 {status.value} {status.phrase}".encode() for status in HTTPStatus}
_BODILESS: Final = frozenset({204, 304})
_LINE: Final = b": ".join
_LINES: Final = b"\r\n".join
_CLOSE: Final = b"connection: close"
_CHUNKS: Final = b"transfer-encoding: chunked"

HeaderLines = Iterable[tuple[bytes, bytes]]


def head_lines(status: int, headers: HeaderLines) -> list[bytes]:
    """The first lines of an answer's head, without their ends."""
    return [_STATUS_LINES.get(status) or b"HTTP/1.1 %d " % status, *map(_LINE, headers)]


class Room:
    """Memory that bodies of all requests may take together."""

    __slots__ = ("_limit_bytes", "taken_bytes")

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self.taken_bytes = 0

    def take(self, size: int) -> None:
        """Count bytes in; raises ApiError OVERLOADED where the room is full."""
        if self.taken_bytes + size > self._limit_bytes:
            raise ApiError(Case.OVERLOADED, "The server is handling too much data right now. Please try again.")
        self.taken_bytes += size

    def give_back(self, size: int) -> None:
        self.taken_bytes -= size


class Copy(Protocol):
    """Whoever keeps a copy of an answer."""

    whole: bool

    def begin(self, status: int, headers: HeaderLines, *, streamed: bool) -> None:
        """The head of the answer is written."""
        ...

    def add(self, piece: bytes) -> None:
        """A piece of the answer is written."""
        ...

    def spoil(self) -> None:
        """What was written must not be kept."""
        ...


class Client:
    """One request of a connection, and its answer.

    Attributes:
        connection: what it came over; for whoever has to speak to it in another way than by this class.
        length: of the body as it was declared, NO_LENGTH where it comes in chunks.
        head: what the request's head says; it may be the head of other requests too.
        answered_status: the status of the answer whose head was written, None before.
        ended: whether the answer's last byte was written, or it was cut off.
        closing: whether the connection ends with this answer.
        body_bytes: how much of the room this request's body has taken.
        recording: who keeps a copy of the answer, where anybody does.
    """

    __slots__ = (
        "_body",
        "_chunked",
        "_incoming",
        "_silent",
        "answered_status",
        "body_bytes",
        "closing",
        "connection",
        "ended",
        "head",
        "length",
        "method",
        "recording",
        "target",
    )

    def __init__(
        self,
        connection: "ClientConnection",
        head: RequestHead,
        length: int,
        body: bytes | None,
        incoming: IncomingBody | None = None,
    ) -> None:
        self.head = head
        self.method = head.method
        self.target = head.target
        self.answered_status: int | None = None
        self.ended = False
        self.closing = head.closes
        self.body_bytes = 0
        self.connection = connection
        self.length = length
        self._body = body
        self._incoming = incoming
        self._chunked = False
        self._silent = False
        self.recording: Copy | None = None

    # The request.

    @property
    def headers(self) -> MultiMapping[str]:
        """The request's headers by name, without the length of its body."""
        return self.head.headers

    @property
    def raw_headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """The request's headers as they came, without the length of its body."""
        return self.head.raw_headers

    @property
    def peer(self) -> str:
        """The address that the connection comes from, empty where it has none."""
        return self.connection.peer

    @property
    def gone(self) -> bool:
        """Whether the client can no longer get an answer."""
        transport = self.connection.transport
        return transport is None or transport.is_closing()

    @property
    def left(self) -> bool:
        """Whether the client is gone as far as one can know without writing: few close half and wait for an answer."""
        return self.gone or self.connection.half_closed

    def whole_body(self, limit_bytes: int, room: Room) -> bytes | None:
        """The body, if all of it has come; else None, and `read_body` waits for it. It can be had once.

        Raises:
            ApiError: TOO_LARGE, OVERLOADED.
        """
        body = self._body
        if body is None:
            if self._incoming is None or not self._incoming.ended:
                return None
            body = self._incoming.take()
            self._incoming = None
        self._body = None
        self._count(len(body), limit_bytes, room)
        return body

    async def read_body(self, limit_bytes: int, room: Room) -> bytes:
        """Read the whole body.

        Raises:
            ApiError: TOO_LARGE, OVERLOADED, MALFORMED where it breaks off, REQUEST_TIMEOUT where it pauses too long.
        """
        incoming = self._incoming
        if incoming is None:
            return self.whole_body(limit_bytes, room) or b""
        if self.length > limit_bytes:
            raise _too_large(limit_bytes)
        if self.head.expects_continue and not incoming.touched:
            self._write(CONTINUE)
        gathered = io.BytesIO()  # it grows as they come: putting many pieces together at the end would take long
        begun = asyncio.get_running_loop().time()
        while piece := await self.connection.next_piece(incoming, begun, self.body_bytes):
            self._count(len(piece), limit_bytes, room)
            gathered.write(piece)
        if incoming.fault is not None:
            self.closing = True
            raise incoming.fault.again()
        return gathered.getvalue()

    def _count(self, size: int, limit_bytes: int, room: Room) -> None:
        if self.body_bytes + size > limit_bytes:
            raise _too_large(limit_bytes)
        room.take(size)
        self.body_bytes += size

    # The answer.

    def _write(self, data: bytes) -> None:
        transport = self.connection.transport
        if transport is not None and not transport.is_closing():
            transport.write(data)

    def ends_here(self) -> bool:
        """Whether the connection closes after this request's answer; settled when the answer's head is written."""
        if self.connection.ending:
            self.closing = True
        return self.closing

    def answer(self, status: int, headers: HeaderLines, body: bytes) -> None:
        """Write a whole answer at once."""
        self.answered_status = status
        self.ended = True
        if self.recording is not None:
            self.recording.begin(status, headers, streamed=False)
            self.recording.add(body)
            self.recording.whole = status < 400
        lines = head_lines(status, headers)
        if self.ends_here():
            lines.append(_CLOSE)
        if status in _BODILESS:
            lines += (b"", b"")
        else:
            lines += (b"content-length: %d" % len(body), b"", b"" if self.method == "HEAD" else body)
            if len(body) > COPIED_BYTES:
                body = lines.pop()
                lines.append(b"")
                self._write(_LINES(lines))
                self._write(body)
                return
        self._write(_LINES(lines))

    def refuse(self, error: ApiError, headers: HeaderLines = ()) -> None:
        """Answer with an error of our own, in OpenAI's shape."""
        incoming = self._incoming
        if incoming is not None and not incoming.ended and "Expect" in self.headers:
            self.closing = True  # whether the body still comes is up to the client, so the next request cannot be told
        own = [(name.lower().encode(), value.encode("latin-1", "replace")) for name, value in error.headers.items()]
        self.answer(error.status, [JSON_TYPE, *own, *headers], error.body())

    def begin(self, status: int, headers: HeaderLines) -> None:
        """Write the head of an answer whose length is not known yet."""
        self._silent = status in _BODILESS or self.method == "HEAD"
        self._chunked = self.head.http_1_1 and status not in _BODILESS
        if not self.head.http_1_1:
            self.closing = True
        self.answered_status = status
        if self.recording is not None:
            self.recording.begin(status, headers, streamed=True)
        lines = head_lines(status, headers)
        if self._chunked:
            lines.append(_CHUNKS)
        if self.ends_here():
            lines.append(_CLOSE)
        lines += (b"", b"")
        self._write(_LINES(lines))

    def send(self, piece: bytes) -> None:
        """Write one piece of a begun answer, as one chunk."""
        if not piece or self._silent:
            return
        if self.recording is not None:
            self.recording.add(piece)
        self._write(b"%x\r\n%b\r\n" % (len(piece), piece) if self._chunked else piece)

    def end(self, piece: bytes = b"") -> None:
        """Write the last piece of a begun answer and its end, in one write."""
        self.ended = True
        if self._silent:
            return
        if self.recording is not None:
            self.recording.add(piece)
        if not self._chunked:
            self._write(piece)
        elif piece:
            self._write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(piece), piece))
        else:
            self._write(b"0\r\n\r\n")

    def abort(self) -> None:
        """Cut the connection so that what was sent does not pass for a whole answer."""
        self.ended = True
        self.closing = True
        if self.connection.transport is not None:
            self.connection.transport.abort()

    @property
    def congested(self) -> bool:
        """Whether the client takes bytes slower than they come; then `drain` before the next write."""
        return self.connection.writing_paused

    async def drain(self) -> None:
        """Wait until the client has taken enough of what was written, or has left."""
        await self.connection.drained()


def closing_refusal(error: ApiError) -> bytes:
    """The bytes of an answer to what did not become a request; the connection ends with it."""
    body = error.body()
    lines = head_lines(error.status, [JSON_TYPE, *new_ids()])
    lines += (b"content-length: %d" % len(body), _CLOSE, b"", body)
    return _LINES(lines)


def new_ids() -> list[tuple[bytes, bytes]]:
    """The headers that name an answer to what never became an exchange."""
    request_id = str(uuid7(time.time_ns() // 1000, os.urandom(10))).encode()
    return [(REQUEST_ID, request_id), (b"x-request-id", request_id)]


def _too_large(limit_bytes: int) -> ApiError:
    return ApiError(Case.TOO_LARGE, f"The request body is larger than the {limit_bytes} bytes allowed.")
