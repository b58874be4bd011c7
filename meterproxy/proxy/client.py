"""The client's side of one exchange: what it asked in bytes, and the only way to answer it.

Rules
-----
- Nothing here logs or echoes a client's bytes.
- An answer is written as raw bytes in one write a piece; nothing is added but framing and `Connection`.
- A client that has left is not an error: writing to it does nothing, `gone` says so.
- An answer that breaks off must not look complete: it ends by `abort`, never by `end`.
"""

import asyncio
import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from aiohttp import HttpVersion11
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestPayloadError
from aiohttp.web_request import BaseRequest
from multidict import MultiMapping
from yarl import URL

from meterproxy.errors import ApiError, Case

if TYPE_CHECKING:
    from meterproxy.proxy.server import Connection

BODY_GAP_SECONDS: Final = 30.0
"""How long a request body may pause before its client is told off."""
BODY_SECONDS: Final = 30.0
BODY_BYTES_PER_SECOND: Final = 32 << 10
"""How slowly a body may come altogether: so long, and a second more for each so many bytes that came."""

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
JSON_TYPE: Final = (b"content-type", b"application/json")

_STATUS_LINES: Final = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
_ABSOLUTE: Final = re.compile(r"https?://[^/?#]*", re.IGNORECASE)
_BODILESS: Final = frozenset({204, 304})

HeaderLines = Iterable[tuple[bytes, bytes]]


def head_of(status: int, headers: HeaderLines, framing: bytes) -> bytes:
    """The bytes of an answer's head; `framing` are finished lines that say how the body ends."""
    line = _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
    return b"%b%b%b\r\n" % (line, b"".join([b"%b: %b\r\n" % pair for pair in headers]), framing)


class Room:
    """Memory that bodies of all requests may take together."""

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


class Client:
    """One request of a connection, made by aiohttp's `RequestHandler` in place of its own request object."""

    __slots__ = (
        "_chunked",
        "_connection",
        "_payload",
        "_payload_writer",
        "_task",
        "answered_status",
        "body_bytes",
        "closing",
        "ended",
        "headers",
        "message",
        "method",
        "target",
    )

    def __init__(
        self,
        message: RawRequestMessage,
        payload: StreamReader,
        connection: "Connection",
        writer: AbstractStreamWriter,
        task: "asyncio.Task[None]",
    ) -> None:
        if not message.path.startswith("/"):
            message = _in_origin_form(message)
        self.message = message
        self.method = message.method
        self.target = message.path
        self.headers: MultiMapping[str] = message.headers
        self.answered_status: int | None = None
        self.ended = False
        self.closing = message.should_close or message.version != HttpVersion11
        self.body_bytes = 0
        self._payload = payload
        self._connection = connection
        self._payload_writer = writer
        self._task = task
        self._chunked = False

    # What aiohttp's RequestHandler asks of a request object.

    def _cancel(self, exc: BaseException) -> None:
        self._payload.set_exception(exc)

    def _finish(self) -> None:
        """Nothing to tidy up: bodies are plain bytes."""

    @property
    def writer(self) -> AbstractStreamWriter:
        return self._payload_writer

    def as_aiohttp(self, kind: type[BaseRequest]) -> BaseRequest:
        """The same request as aiohttp's own object, for handlers that are not of the data plane."""
        return kind(
            self.message,
            self._payload,
            self._connection,
            self._payload_writer,
            self._task,
            self._connection._loop,  # noqa: SLF001 - as its factory does
        )

    # The request.

    @property
    def raw_headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """The request's headers as they came."""
        return self.message.raw_headers

    @property
    def peer(self) -> str:
        """The address that the connection comes from, empty where it has none."""
        name: Any = self._connection.peername
        return name[0] if isinstance(name, tuple) else ""

    @property
    def gone(self) -> bool:
        """Whether the client can no longer get an answer."""
        transport = self._connection.transport
        return transport is None or transport.is_closing()

    @property
    def left(self) -> bool:
        """Whether the client is gone as far as one can know without writing: few close half and wait for an answer."""
        return self.gone or self._connection.half_closed

    async def read_body(self, limit_bytes: int, room: Room) -> bytes:
        """Read the whole body.

        Raises:
            ApiError: TOO_LARGE, OVERLOADED, MALFORMED where it breaks off, REQUEST_TIMEOUT where it pauses too long.
        """
        payload = self._payload
        self._refuse_declared(limit_bytes)
        if payload.is_eof() and payload.exception() is None:
            body = payload.read_nowait()
            self._count(len(body), limit_bytes, room)
            return body
        if self.headers.get("Expect", "").lower() == "100-continue" and not self.gone:
            self._write(CONTINUE)
        pieces = []
        started = asyncio.get_running_loop().time()
        while piece := await self._next_piece(started):
            self._count(len(piece), limit_bytes, room)
            pieces.append(piece)
        return b"".join(pieces)

    def _refuse_declared(self, limit_bytes: int) -> None:
        declared = self.headers.get("Content-Length", "")
        if declared.isdigit() and (len(declared) > 18 or int(declared) > limit_bytes):
            raise _too_large(limit_bytes)

    def _count(self, size: int, limit_bytes: int, room: Room) -> None:
        if self.body_bytes + size > limit_bytes:
            raise _too_large(limit_bytes)
        room.take(size)
        self.body_bytes += size

    async def _next_piece(self, started: float) -> bytes:
        now = asyncio.get_running_loop().time()
        overdue = started + BODY_SECONDS + self.body_bytes / BODY_BYTES_PER_SECOND
        try:
            async with asyncio.timeout(min(BODY_GAP_SECONDS, overdue - now)):
                return await self._payload.readany()
        except TimeoutError:
            self.closing = True
            raise ApiError(Case.REQUEST_TIMEOUT, "The request body did not arrive in time.") from None
        except (RequestPayloadError, ConnectionError, RuntimeError):
            self.closing = True
            raise ApiError(Case.MALFORMED, "The request body broke off or its framing is faulty.") from None

    # The answer.

    def _write(self, data: bytes) -> None:
        transport = self._connection.transport
        if transport is not None and not transport.is_closing():
            transport.write(data)

    def ends_here(self) -> bool:
        """Whether the connection closes after this request's answer; settled when the answer's head is written."""
        if self._connection.ends_after(self):
            self.closing = True
        return self.closing

    def _closing_line(self) -> bytes:
        return b"connection: close\r\n" if self.ends_here() else b""

    def answer(self, status: int, headers: HeaderLines, body: bytes) -> None:
        """Write a whole answer at once."""
        framing = b"" if status in _BODILESS else b"content-length: %d\r\n" % len(body)
        head = head_of(status, headers, framing + self._closing_line())
        self.answered_status = status
        self.ended = True
        self._write(head if self.method == "HEAD" or status in _BODILESS else head + body)

    def refuse(self, error: ApiError, headers: HeaderLines = ()) -> None:
        """Answer with an error of our own, in OpenAI's shape."""
        if not self._payload.is_eof() and "Expect" in self.headers:
            self.closing = True  # whether the body still comes is up to the client, so the next request cannot be told
        own = [(name.lower().encode(), value.encode("latin-1", "replace")) for name, value in error.headers.items()]
        self.answer(error.status, [JSON_TYPE, *own, *headers], error.body())

    def begin(self, status: int, headers: HeaderLines) -> None:
        """Write the head of an answer whose length is not known yet."""
        self._chunked = self.message.version == HttpVersion11
        if not self._chunked:
            self.closing = True
        framing = b"transfer-encoding: chunked\r\n" if self._chunked else b""
        self.answered_status = status
        self._write(head_of(status, headers, framing + self._closing_line()))

    def send(self, piece: bytes) -> None:
        """Write one piece of a begun answer, as one chunk."""
        if not piece:
            return
        self._write(b"%x\r\n%b\r\n" % (len(piece), piece) if self._chunked else piece)

    def end(self, piece: bytes = b"") -> None:
        """Write the last piece of a begun answer and its end, in one write."""
        self.ended = True
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
        if self._connection.transport is not None:
            self._connection.transport.abort()

    @property
    def congested(self) -> bool:
        """Whether the client takes bytes slower than they come; then `drain` before the next write."""
        return self._connection.writing_paused

    async def drain(self) -> None:
        """Wait until the client has taken enough of what was written, or has left."""
        try:
            await self._connection._drain_helper()  # noqa: SLF001 - aiohttp's flow control has no public name
        except ConnectionError:
            return


def _in_origin_form(message: RawRequestMessage) -> RawRequestMessage:
    """The request with a target as if it had been asked for at the host itself: without scheme and authority."""
    authority = _ABSOLUTE.match(message.path)
    if authority is None:
        return message
    path = message.path[authority.end() :]
    path = path if path.startswith("/") else "/" + path
    return message._replace(path=path, url=URL(path, encoded=True))


def _too_large(limit_bytes: int) -> ApiError:
    return ApiError(Case.TOO_LARGE, f"The request body is larger than the {limit_bytes} bytes allowed.")
